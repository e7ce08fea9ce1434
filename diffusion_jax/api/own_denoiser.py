"""Sample with a denoiser of your own, without a run."""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax import devices
from diffusion_jax.api.namespaces import Choice, chosen_of
from diffusion_jax.experiment import choices
from diffusion_jax.objective import reverse
from diffusion_jax.objective.prediction import Prediction
from diffusion_jax.process.base import Array, Level, Schedule, expand, in_float64
from diffusion_jax.process.gaussian import GaussianProcess
from diffusion_jax.sampling import grids, loop
from diffusion_jax.sampling.base import starting


def sample(
    denoiser: Callable[[Array, Array], Array],
    schedule: Choice | Schedule | str,
    *,
    shape: tuple[int, ...],
    seeds: Iterable[int],
    sampler: Choice | str = "dpmpp_2m",
    num_steps: int = 18,
    grid: str = "uniform",
    min_t: float = 0.0,
    clip: bool = False,
    tile: int = 64,
) -> np.ndarray:
    """Draw samples [N,*shape] with a denoiser of yours, one per seed.

    Arguments:
        denoiser: `D(x[B,*D], sigma[B]) -> x0[B,*D]`, the mean of the clean x0 given x = x0 + sigma noise (Karras et
            al. 2022). With a schedule whose alpha is not 1 it is called with x_t/alpha and sigma/alpha.
        schedule: of `dj.schedules`, its name, or a function t -> (log_alpha, log_sigma), with signal at t = 1, where
            sampling starts: not `rectified_flow`, `harmonic` or `polynomial`.
        sampler: of `dj.samplers`, or its name. num_steps: its steps, the last one to x0 included.
        grid: of the times: "uniform", "quadratic", "logsnr", "karras". min_t: time at which it ends.
        clip: clip x0 to [-1, 1] at every step. tile: samples per device and call.

    Raises ValueError for choices that do not suit each other, FloatingPointError for samples that are not finite.
    """
    given = chosen_of("schedule", schedule)
    given = Choice("schedule", given, {}) if isinstance(given, str) else given
    path: Schedule = given.instance if isinstance(given, Choice) else given
    if not np.isfinite(in_float64(path, np.ones(1))[0][0]):
        raise ValueError("schedule: has no signal at t = 1, where sigma/alpha is infinite. Use another schedule")
    process = GaussianProcess()
    chosen = chosen_of("sampler", sampler)
    choice = Choice("sampler", chosen, {}) if isinstance(chosen, str) else chosen
    if choice.name in ("direct", "mean_flow"):
        raise ValueError(f"sampler={choice.name!r}: needs a model of its own, not a denoiser. Use another sampler")
    if isinstance(tile, bool) or not isinstance(tile, int | np.integer) or tile < 1:
        raise ValueError(f"tile={tile!r}: must be a whole number of at least 1")
    if not 0 <= min_t < 1:
        raise ValueError(f"min_t={min_t}: is not in [0, 1)")
    each = _seeds(seeds)
    example = _shape(denoiser, shape, tile)
    method = starting(choice.make(draw=process.draw), path)

    def predict(x: Array, level: Level) -> Prediction:
        inverse = expand(jnp.exp(-level.log_alpha), x)
        x0 = denoiser(x * inverse, jnp.exp(level.log_sigma - level.log_alpha))
        x0 = jnp.clip(x0, -1, 1) if clip else x0
        eps = (x - expand(level.alpha, x) * x0) * expand(jnp.exp(-level.log_sigma), x)
        return Prediction(x0, eps, None)

    noisy = bool(np.isfinite(in_float64(path, np.array([min_t]))[1][0]))
    if num_steps < 1 + noisy:
        raise ValueError(f"num_steps={num_steps}: must be at least {1 + noisy}")
    made = choices.choose("grid", grid, grids.GRIDS)
    times = grids.make(made, num_steps - noisy, schedule=path, end=min_t)
    steps = loop.coefficients(process, path, times, denoise=noisy, method=method)
    kernel = reverse.fixed_large(process) if method.uses_kernel else None

    drawer = loop.Sampler(
        process=process,
        schedule=lambda params: path,
        denoiser=lambda params, x, level, label=None, keys=None: predict(x, level),
        reverse=kernel,
        method=method,
        coefficients=lambda params: steps,
        shape=example,
    )
    drawn: np.ndarray = devices.TiledMap(drawer.sample, tile, name="samples")(None, each.astype(np.uint32))
    if not np.isfinite(drawn).all():
        raise FloatingPointError("sample: samples are not finite; check the denoiser, the grid and num_steps")
    return drawn


def _seeds(seeds: Iterable[int]) -> np.ndarray:
    """Return seeds as an array [N]. Raises ValueError unless they are whole numbers in 0 … 2^32 - 1."""
    each = np.asarray(list(seeds) if isinstance(seeds, Iterable) else seeds)
    whole = each.ndim == 1 and each.size and np.issubdtype(each.dtype, np.integer)
    if not whole or each.min() < 0 or each.max() >= 2**32:
        raise ValueError(f"seeds={seeds!r}: must be a list of whole numbers in 0 … 2^32 - 1, at least one: range(16)")
    return each


def _shape(denoiser: Callable[[Array, Array], Array], shape: tuple[int, ...], tile: int) -> tuple[int, ...]:
    """Return the shape of an example. Raises ValueError unless the denoiser maps x [N,*shape] to that shape."""
    if not isinstance(shape, tuple | list) or not all(isinstance(size, int | np.integer) for size in shape):
        raise ValueError(f"shape={shape!r}: must be a tuple, the shape of one example: (28, 28, 1)")
    asked = (tile, *shape)
    try:
        got = jax.eval_shape(lambda: denoiser(jnp.zeros(asked), jnp.ones(tile)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"denoiser: fails on x {asked}, sigma ({tile},): {error}") from error
    if getattr(got, "shape", None) != asked:
        raise ValueError(
            f"denoiser: returned {getattr(got, 'shape', got)} for x {asked}, sigma ({tile},); expected {asked}"
        )
    return tuple(shape)
