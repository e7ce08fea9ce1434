"""Linear inverse problems: x0 given y = A x0 + sigma_y noise.

Guidance of a denoiser, for every sampler. With D = E[x0 | x_t] and the covariance V = Cov[x0 | x_t] = (sigma²/alpha)
dD/dx_t, the approximation

    p(y | x_t) ≈ N(y; A D, sigma_y² I + A V A^T)

moves the predicted x0 by (sigma²/alpha) grad log p(y | x_t):

    x0 = D + (sigma²/alpha) (dD/dx_t)^T A^T u,        (sigma_y² I + A V A^T) u = y - A D.

The methods differ in the V inside of the bracket: `dps` has 0, `pigdm` a fixed multiple of I, `mmps` the Jacobian
itself. With the exact V this is E[x0 | x_t, y] for Gaussian data. At alpha = 0 nothing is moved. A is a function of one
example; its transpose is `jax.linear_transpose`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.objective.prediction import Denoiser, Prediction
from diffusion_jax.process.base import Array, Level, expand
from diffusion_jax.sampling import degradation
from diffusion_jax.sampling.degradation import Degradation

Linear = Callable[[Array], Array]
"""Linear map of arrays; of an operator A from one example [*D] to its observation [*M]."""


class Operator(NamedTuple):
    """Linear operator A of an inverse problem."""

    apply: Linear
    """From one example [*D] to its observation [*M]."""
    degradation: Degradation | None = None
    """Mask and coordinates that give the same observation, for the rules of `posterior`; None: there are none."""
    scale: float = 1.0
    """The known coordinates of the degradation are `scale` times the observation."""


class Observation(NamedTuple):
    """Observation y = A x0 + sigma_y noise of a batch."""

    operator: Linear
    """A, of one example."""
    y: Array
    """[B,*M]."""
    sigma_y: float
    """Standard deviation of the noise; 0 for none."""


class Linearised(NamedTuple):
    """A denoiser at x_t [B,*D], with the products that the methods take."""

    level: Level
    residual: Array
    """y - A D [B,*M]."""
    adjoint: Linear
    """A^T, [B,*M] -> [B,*D]."""
    forward: Linear
    """A, [B,*D] -> [B,*M]."""
    covariance: Linear
    """(sigma²/alpha) (dD/dx_t)^T, [B,*D] -> [B,*D]; one vector-Jacobian product."""
    sigma_y: float


class Method(NamedTuple):
    """Method of posterior sampling; each is a factory that returns one for its options."""

    shift: Callable[[Linearised], Array]
    """Shift of the predicted x0 [B,*D] by the observation."""
    vjps: int
    """Vector-Jacobian products of the denoiser for each of its calls."""


def dps(zeta: float = 1.0) -> Method:
    """Diffusion posterior sampling: V = 0 in p(y | x_t).

    zeta = 0 is theorem 1 of the paper, N(y; A D, sigma_y² I), biased and overconfident: with small steps on N(0, 1)
    data and A = 1 the probability-flow ODE ends with variance e^(-1/sigma_y²). It is stiff for small sigma_y. The paper
    therefore divides a step size by the norm of the residual; as a guidance, which does not depend on the step,
    zeta > 0 puts the mean square of the residual over zeta in the place of sigma_y², where that is larger. One
    vector-Jacobian product. Raises ValueError for zeta < 0. Reference: Chung et al. 2023, theorem 1 and algorithm 1.
    """
    if not zeta >= 0:
        raise ValueError(f"--zeta={zeta}: must not be negative. Use 1, or 0 for the variance of the noise")

    def shift(at: Linearised) -> Array:
        var = jnp.full(len(at.residual), at.sigma_y**2, at.residual.dtype)
        if zeta:
            var = jnp.maximum(var, _dot(at.residual, at.residual) / (zeta * math.prod(at.residual.shape[1:])))
        return at.covariance(at.adjoint(at.residual / expand(jnp.where(var > 0, var, jnp.inf), at.residual)))

    return Method(shift, 1)


def pigdm(
    covariance: Callable[[Level, Array], Array] | None = None, sigma_data: float = 1.0, steps: int = 50
) -> Method:
    """Pseudo-inverse guidance: V = r² I with r² = sigma² d²/(alpha² d² + sigma²), d = sigma_data.

    That is Cov[x0 | x_t] of N(0, d²) data, for which, and with the exact `covariance`, the method is exact. The system
    in A A^T is solved by conjugate gradients without the network; one vector-Jacobian product.

    Args:
        covariance: `(level [B], v [B,*D]) -> V v` in place of r² v.
        sigma_data: d; the paper has 1.
        steps: of the conjugate gradients, at most; one suffices where A A^T is a multiple of I.

    Reference: Song et al. 2023 (pseudoinverse-guided diffusion models), eq. 7 to 9.
    """

    def isotropic(level: Level, v: Array) -> Array:
        signal, noise = level.log_alpha + math.log(sigma_data), level.log_sigma
        return expand(jnp.exp(2 * (math.log(sigma_data) + noise) - jnp.logaddexp(2 * signal, 2 * noise)), v) * v

    found = covariance or isotropic

    def shift(at: Linearised) -> Array:
        def product(u: Array) -> tuple[Array, Array]:
            return at.sigma_y**2 * u + at.forward(found(at.level, at.adjoint(u))), u

        most = min(steps, math.prod(at.residual.shape[1:]))
        return at.covariance(at.adjoint(conjugate_gradients(product, at.residual, at.residual, most)))

    return Method(shift, 1)


def mmps(iterations: int = 5) -> Method:
    """Moment matching posterior sampling: V is the Jacobian of the denoiser, by conjugate gradients.

    Exact for Gaussian data once the conjugate gradients have converged, which takes at most one iteration for each
    element of y.

    Args:
        iterations: of the conjugate gradients, each with one vector-Jacobian product.

    Raises ValueError for less than one iteration. Reference: Rozet et al. 2024, section 4.
    """
    if iterations < 1:
        raise ValueError(f"--iterations={iterations}: must be at least 1. Use 5")

    def shift(at: Linearised) -> Array:
        def product(u: Array) -> tuple[Array, Array]:
            image = at.covariance(at.adjoint(u))
            return at.sigma_y**2 * u + at.forward(image), image

        return conjugate_gradients(product, at.residual, jnp.zeros_like(at.adjoint(at.residual)), iterations)

    return Method(shift, iterations)


METHODS: dict[str, Callable[..., Method]] = {"dps": dps, "pigdm": pigdm, "mmps": mmps}
"""Methods by name."""


def conjugate_gradients(
    product: Callable[[Array], tuple[Array, Array]], b: Array, like: Array, iterations: int
) -> Array:
    """Solve M u = b for symmetric M >= 0, row by row.

    Returns a linear map of u, [B,…] as `like`. A row stops early at a residual of the rounding of its b, or in a
    direction without positive curvature.

    Args:
        product: `u [B,*M] -> (M u, the linear map of u)`; the result is the sum of the maps of the steps.
        b: right-hand sides [B,*M].
        like: an array with the shape and dtype of the map of b.
        iterations: one product each.
    """
    least = jnp.finfo(b.dtype).eps ** 2 * _dot(b, b)

    def step(_: int, state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        mapped, residual, direction, square = state
        moved, image = product(direction)
        curvature = _dot(direction, moved)
        active = (curvature > 0) & (square > least)
        length = jnp.where(active, square / jnp.where(active, curvature, 1), 0)
        residual = residual - expand(length, b) * moved
        after = jnp.where(active, _dot(residual, residual), 0)
        share = jnp.where(active, after / jnp.where(active, square, 1), 0)
        return mapped + expand(length, like) * image, residual, residual + expand(share, b) * direction, after

    return jax.lax.fori_loop(0, iterations, step, (jnp.zeros_like(like), b, b, _dot(b, b)))[0]


def _dot(a: Array, b: Array) -> Array:
    """Inner products [B] of rows."""
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)))


def condition(predict: Denoiser, method: Method, observation: Observation) -> Denoiser:
    """Wrap a denoiser to predict x0 given x_t and an observation of the same batch.

    As any guidance, for every sampler. One network call, and the vector-Jacobian products of the method.
    """
    forward = jax.vmap(observation.operator)

    def guided(
        params: Any, x_t: Array, level: Level, label: Array | None = None, keys: Array | None = None
    ) -> Prediction:
        def clean(x: Array) -> tuple[Array, Prediction]:
            prediction = predict(params, x, level, label, keys)
            return prediction.x0, prediction

        x0, pull, prediction = jax.vjp(clean, x_t, has_aux=True)
        signal = jnp.isfinite(level.log_alpha)
        factor = jnp.where(signal, jnp.exp(2 * level.log_sigma - jnp.where(signal, level.log_alpha, 0)), 0)
        transposed = jax.linear_transpose(forward, x0)
        move = method.shift(
            Linearised(
                level=level,
                residual=observation.y.astype(x0.dtype) - forward(x0),
                adjoint=lambda u: transposed(u)[0],
                forward=forward,
                covariance=lambda v: expand(factor, v) * pull(v)[0],
                sigma_y=observation.sigma_y,
            )
        )
        ratio = jnp.exp(level.log_alpha - level.log_sigma)
        return Prediction(x0 + move, prediction.eps - expand(ratio, move) * move, prediction.head)

    return guided


# Operators.


def identity(shape: tuple[int, ...]) -> Operator:
    """A = I: all of an example is observed, for denoising."""
    return _of_degradation(degradation.noise(shape), shape)


def mask(shape: tuple[int, ...], mask: str | np.ndarray = "right", share: float = 0.5, seed: int = 0) -> Operator:
    """Known elements [M] of an example; the arguments are as in `degradation.missing`. Raises ValueError."""
    known = degradation.missing(shape, mask, share, seed)
    return _of_degradation(known, (int(known.mask.sum()),))


def grey(shape: tuple[int, ...]) -> Operator:
    """Grey image [H,W,1], the mean of the channels. Raises ValueError for grey images."""
    return _of_degradation(degradation.colour(shape), (*shape[:2], 1), math.sqrt(shape[-1]))


def superres(shape: tuple[int, ...], factor: int = 2) -> Operator:
    """Means of blocks of factor x factor pixels, [H/factor,W/factor,C]. Raises ValueError unless they fit."""
    degraded = degradation.detail(shape, factor)
    return _of_degradation(degraded, (shape[0] // factor, shape[1] // factor, shape[2]), factor)


def blur(shape: tuple[int, ...], width: float = 1.0) -> Operator:
    """Gaussian blur [H,W,C] with standard deviation `width` in pixels, weights renormalised at the edges.

    Raises ValueError for examples that are no images, and for width <= 0.
    """
    if not width > 0:
        raise ValueError(f"--width={width}: must be above 0")
    if len(shape) != 3:
        raise ValueError(f"blur: needs images [H,W,C] (got examples of shape {shape})")
    weights = [np.exp(-0.5 * np.square((np.arange(n)[:, None] - np.arange(n)) / width)) for n in shape[:2]]
    rows, columns = (w / w.sum(1, keepdims=True) for w in weights)

    def apply(x: Array) -> Array:
        across = jnp.einsum("jw,hwc->hjc", jnp.asarray(columns, x.dtype), x, precision="highest")
        return jnp.einsum("ih,hjc->ijc", jnp.asarray(rows, x.dtype), across, precision="highest")

    return Operator(apply)


OPERATORS: dict[str, Callable[..., Operator]] = {
    "identity": identity,
    "mask": mask,
    "blur": blur,
    "superres": superres,
    "grey": grey,
}
"""Operators by name: factories of an operator from the shape *D of an example."""


def _of_degradation(degraded: Degradation, shape: tuple[int, ...], scale: float = 1.0) -> Operator:
    """Operator of the known coordinates of a degradation, divided by `scale`."""
    places = np.flatnonzero(degraded.mask)

    def apply(x: Array) -> Array:
        return degraded.rotate(x[None])[0].reshape(-1)[places].reshape(shape) / scale

    return Operator(apply, degraded, scale)


def observed_shape(operator: Linear, shape: tuple[int, ...], name: str = "operator") -> tuple[int, ...]:
    """Return the shape *M of an observation of an example [*D], float32.

    The operator is checked. Compares A(x + 2 z) with A(x) + 2 A(z), and <A x, u> with <x, A^T u>, on random x, z and u.
    Raises ValueError, naming `name`, for an operator that fails, is not linear, or returns anything but one array of
    real numbers.
    """
    rng = np.random.default_rng(0)
    x, z = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))
    need = f"It takes one example of shape {shape} and returns one array of real numbers"
    try:
        found = jax.eval_shape(operator, x)
    except Exception as error:
        raise ValueError(
            f"{name}: fails on an example of shape {shape} ({' '.join(str(error).split())}). {need}"
        ) from error
    if not isinstance(found, jax.ShapeDtypeStruct) or not jnp.issubdtype(found.dtype, jnp.floating) or not found.size:
        raise ValueError(f"{name}: returns {found}. {need}")
    linear = f"{name}: is not linear ({{}}). A(x + z) must be A(x) + A(z), without an offset. {need}"
    u = jnp.asarray(rng.normal(size=found.shape), found.dtype)

    @jax.jit
    def products(x: Array, z: Array, u: Array) -> tuple[Array, Array, Array, Array]:
        parts = operator(x) + 2 * operator(z)
        return operator(x + 2 * z) - parts, parts, operator(x), jax.linear_transpose(operator, x)(u)[0]

    try:
        difference, parts, y, back = (np.asarray(value, np.float64) for value in products(x, z, u))
    except Exception as error:
        raise ValueError(linear.format(f"JAX cannot transpose it: {' '.join(str(error).split())[:200]}")) from error
    if not np.abs(difference).max() <= 1e-3 * np.abs(parts).max():
        raise ValueError(linear.format(f"A(x + 2 z) differs from A(x) + 2 A(z) by {np.abs(difference).max():.2g}"))
    left, right = float(np.vdot(y, u)), float(np.vdot(x, back))
    if not abs(left - right) <= 1e-3 * float(np.linalg.norm(x) * np.linalg.norm(back)):
        raise ValueError(linear.format(f"<A x, u> = {left:.4g}, but <x, A^T u> = {right:.4g}"))
    return tuple(found.shape)


def pseudo_inverse(operator: Linear, shape: tuple[int, ...], y: Array, iterations: int = 50) -> Array:
    """Return A^+ y [B,*D], the least example with the observation y [B,*M]. By conjugate gradients on A A^T."""
    forward = jax.vmap(operator)
    transposed = jax.linear_transpose(forward, jax.ShapeDtypeStruct((len(y), *shape), y.dtype))

    def product(u: Array) -> tuple[Array, Array]:
        image = transposed(u)[0]
        return forward(image), image

    steps = min(iterations, math.prod(y.shape[1:]))
    return conjugate_gradients(product, y, jnp.zeros((len(y), *shape), y.dtype), steps)
