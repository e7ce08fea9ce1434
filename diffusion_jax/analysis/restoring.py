"""Restore degraded held-out examples with a trained run: denoising, inpainting, colourisation, super-resolution.

degraded = degradation.missing((8, 8, 1), "right")
arrays, figures = restoring.restore(run, degraded, "renoise", number=8)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax import devices
from diffusion_jax.analysis.estimators import needs_denoiser
from diffusion_jax.data.source import subset
from diffusion_jax.experiment import choices, guidances, paths, samplers, sources, wiring
from diffusion_jax.process.base import Array, level, normal
from diffusion_jax.runs import trained
from diffusion_jax.sampling import degradation, posterior
from diffusion_jax.sampling.degradation import Degradation

TASKS: dict[str, Callable[..., Degradation]] = {
    "denoise": degradation.noise,
    "inpaint": degradation.missing,
    "colourise": degradation.colour,
    "superres": degradation.detail,
}
RESAMPLED = ("renoise", "noise_aware")
"""Rules that allow resampling (`repeats`): x_t has the distribution of a noisy example."""
LEAST_VAR = 1e-4
"""Least variance of a coordinate of the training data, for noise_aware: some pixels are constant."""


def restore(
    run: trained.Run,
    degraded: Degradation,
    rule: str,
    number: int,
    seed: int = 0,
    noise: float = 0.0,
    repeats: int = 1,
    length: int = 10,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Degrade and restore the first `number` held-out examples, at seeds seed, seed + 1, …

    rule: a name of `posterior.RULES`. noise: standard deviation of the noise in the known coordinates, in the range of
    the model. repeats, length: see `posterior.resample`. Returns the arrays degraded, restored and original [N,*D] in
    the levels of the data, mask, seeds and labels; and the RMSE of the unknown coordinates (with noise: of all), in
    255ths of the range: `rmse`, and `rmse_degraded` of the degraded examples, whose missing coordinates are 0 in the
    range of the model. Raises ValueError if the choices do not suit each other or the run.
    """
    needs_denoiser("restore", run)
    config = run.config
    restorer = make_restorer(config, run.experiment, degraded, rule, noise, repeats, length)
    heldout = sources.heldout(config)
    if not 1 <= number <= heldout.size:
        raise ValueError(f"--num_examples={number}: must lie in 1 … {heldout.size}, the number of held-out examples")
    seeds = trained.seeds_from(seed, number, "num_examples").astype(np.uint32)
    stored, label = heldout.read(np.arange(number))
    x0 = sources.in_range(config, stored)
    drawn_noise = normal(
        jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 2))(jnp.asarray(seeds)), x0.shape[1:]
    )
    known = degraded.rotate(x0) + noise * drawn_noise
    each = [seeds, np.asarray(known, np.float32), *([label] if guidances.uses_label(config) else [])]
    shown = degraded.show(known)
    restored = devices.TiledMap(restorer, config.sampler.tile, name="restored examples")(run.params, *each)
    unknown = np.broadcast_to(~degraded.mask if not noise else np.ones_like(degraded.mask), x0.shape)

    scale = 127.5 * config.data.std

    def rmse(x: Any) -> float:
        return float(np.sqrt(np.square(np.asarray(degraded.rotate(x - x0), np.float64)[unknown]).mean()) * scale)

    arrays: dict[str, Any] = {"degraded": shown, "restored": restored, "original": x0}
    return (
        {name: sources.make_from_model(config)(x) for name, x in arrays.items()}
        | {"mask": degraded.mask, "seeds": seeds.astype(np.int64), "labels": label},
        {"rmse": rmse(jnp.asarray(restored)), "rmse_degraded": rmse(shown)},
    )


def make_restorer(
    config: Any,
    experiment: wiring.Experiment,
    degraded: Degradation,
    rule: str,
    noise: float,
    repeats: int,
    length: int,
) -> Callable[..., Array]:
    """Return `restorer(params, seeds uint32[B], y[B,*D], label=None) -> x0[B,*D]`.

    y is in the coordinates of `degraded`. The sampler and the guidance are taken from the config. Raises ValueError if
    the choices do not fit.
    """
    choices.choose("--rule", rule, posterior.RULES)
    if not experiment.sampler.method.kernel_only:
        raise ValueError(
            f"sampler.name={config.sampler.name!r}: does not draw from the reverse kernel alone, which the rules "
            "condition. Use ancestral"
        )
    if not experiment.process.gaussian:
        raise ValueError(f"process.name={config.process.name!r}: restoration needs a gaussian process")
    if degraded.rotate is not degraded.back and paths.variance_facts(config).head:
        raise ValueError(
            f"prediction.variance={config.prediction.variance!r}: a variance learned per pixel does not suit colours "
            "or blocks. Use --task=inpaint or denoise"
        )
    if noise < 0:
        raise ValueError(f"--noise={noise}: must be at least 0")
    if noise and rule == "renoise":
        raise ValueError(f"--noise={noise}: must be 0 for --rule=renoise. Use --rule=noise_aware")
    if not noise and not (~degraded.mask).any():
        raise ValueError(f"--noise={noise}: without missing pixels there must be noise to remove. Use --noise=0.5")
    if repeats < 1 or length < 1 or (repeats > 1 and rule not in RESAMPLED):
        raise ValueError(
            f"--repeats={repeats} --length={length}: must be at least 1; repeats above 1 need --rule="
            f"{' or '.join(RESAMPLED)} (got {rule})"
        )
    chosen = posterior.noise_aware(*moments(config, degraded)) if rule == "noise_aware" else posterior.RULES[rule]()
    predict = samplers.clipped(config, experiment.guided)
    if degraded.rotate is not degraded.back:
        predict = degradation.rotated(predict, degraded)
    unclipped = config.copy_and_resolve_references()
    unclipped.sampler.clip_x0 = False

    def restorer(params: Any, seeds: Array, y: Array, label: Array | None = None) -> Array:
        observed = posterior.Observed(y, jnp.asarray(degraded.mask), noise)
        kernel = posterior.condition(experiment.reverse, chosen, observed)
        sampler = samplers.sampler(unclipped, experiment.process, experiment.schedule, predict, kernel)
        x, keys = sampler.start(params, seeds)
        x = posterior.start(chosen, observed, level(experiment.schedule(params), jnp.ones(len(y), y.dtype)), x)

        def walk(x: Array, keys: Array, rows: Any, first: Array | int) -> Array:
            return sampler.walk(params, x, sampler.init_carry(x), keys, rows, first, label)[0]

        rows = sampler.coefficients(params)
        x = posterior.resample(walk, rows, x, keys, length, repeats) if repeats > 1 else walk(x, keys, rows, 0)
        return degraded.back(x)

    return restorer


def moments(config: Any, degraded: Degradation) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance [*D] of each coordinate of the training data. The variance is at least LEAST_VAR."""
    train = sources.source(config, "train")
    some = subset(train, config.eval.max_examples)
    x0, _ = some.read(np.arange(some.size))
    x = np.asarray(degraded.rotate(sources.in_range(config, x0)), np.float64)
    return x.mean(0), np.maximum(x.var(0), LEAST_VAR)
