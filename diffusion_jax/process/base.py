"""Contracts of the forward process q: noise schedule, noise level, process.

Time t runs from 0 (the cleanest level) to 1 (the prior), and always s < t:

    x_t = alpha(t) x0 + sigma(t) noise,      alpha and sigma >= 0, standard deviations, never variances.

A schedule is any function from t to (log alpha, log sigma); everything else in the package is a function over that.
In logarithms the ends need no special case: a noiseless t = 0 is log sigma = -inf.

Shapes: B examples, *D data dimensions, N steps of a time grid, *S any shape.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


class Schedule(Protocol):
    """Noise schedule: the scales of signal and noise as functions of time."""

    def __call__(self, t: Array, /) -> tuple[Array, Array]:
        """Return (log_alpha, log_sigma) [*S], in the dtype of t, at times t [*S] in [0, 1].

        log_sigma is -inf at a level without noise, log_alpha is -inf at a level without signal.
        """


class ScheduleFromParams(Protocol):
    """Noise schedule as a function of the model's parameters.

    `learned.ModelSchedule` is an implementation with `fixed`, which distinguishes fixed from learned schedules.
    """

    def __call__(self, params: Any, /) -> Schedule:
        """Return the schedule for `params`, the parameters of a model. A fixed schedule ignores them."""


class Level(NamedTuple):
    """Noise level: time and log scales. Fields are [B] or scalar."""

    t: Array
    log_alpha: Array
    log_sigma: Array
    until: Array | None = None
    """For a mean velocity, the time s < t down to which it is averaged."""

    @property
    def alpha(self) -> Array:
        """Scale of the signal."""
        return jnp.exp(self.log_alpha)

    @property
    def sigma(self) -> Array:
        """Scale (standard deviation) of the noise."""
        return jnp.exp(self.log_sigma)

    @property
    def logsnr(self) -> Array:
        """log(alpha² / sigma²)."""
        return 2 * (self.log_alpha - self.log_sigma)


StepCoefficients = Any
"""Coefficients of a step t -> s of a time grid: `GaussianCoefficients`, `KeptCoefficients`, or a NamedTuple that a
sampler derives from them. All have the levels `at` (of t) and `to` (of s). Fields are scalar or [B] for a single step
and [N] for a time grid, the step from t = 1 first."""


CoefficientsFromParams = Callable[[Any], StepCoefficients]
"""Parameters of a model -> coefficients [N]: float64 NumPy arrays of a fixed schedule, traced ones of a learned one."""


Distribution = tuple[Array, Any]
"""Parameters of a distribution that factorises over the data dimensions: (mean, log_var) of Gaussians, with mean
[B,*D] and log_var broadcastable to it; (probability of +1 [B,*D], None) of bits; (probabilities of the S states
[B,*D,S], None) of levels."""


Draw = Callable[[Distribution, Array], Array]
"""Distribution and standard normal noise [B,*D] -> a draw [B,*D]; the median where the noise is 0."""


class Entropies(NamedTuple):
    """Conditional entropies of the forward process around a step t -> s.

    In nats [B], summed over the data dimensions. With them H(x_s | x_t, x0) = step + to - at, which is exact since q is
    a Markov chain.
    """

    at: Array
    """H(x_t | x0)."""
    to: Array
    """H(x_s | x0)."""
    step: Array
    """H(x_t | x_s), with x_s drawn from q(x_s | x0)."""


class Process(Protocol):
    """Forward process q, and the distribution p(x_1) at its end.

    Implemented by `gaussian.GaussianProcess`, `binomial.BinomialProcess` and `categorical.CategoricalProcess`.
    """

    @property
    def gaussian(self) -> bool:
        """True for Gaussian noise, which a denoiser predicts too. False for bits and levels, where it predicts x0."""

    @property
    def draws_x0(self) -> bool:
        """True if the last step of sampling draws x0. False if it takes the mean or, for bits, the likelier value."""

    @property
    def masks(self) -> bool:
        """True if the noise is a mask, which no value of the data equals."""

    @property
    def levels(self) -> int:
        """Number of grey levels that the data must have; 0: any data."""

    def prior(self, schedule: Schedule, keys: Array, shape: tuple[int, ...], /) -> Array:
        """Draw x_1 [B, *shape] from p(x_1), each example from its own key in `keys` [B]."""

    def prior_kl(self, schedule: Schedule, x0: Array, /) -> Array:
        """Return KL(q(x_1 | x0) || p(x_1)) in nats [B] for x0 [B,*D]."""

    def prior_entropy(self, schedule: Schedule, x0: Array, /) -> Array:
        """Return the entropy of p(x_1) in nats [B], in as many dimensions as x0 [B,*D] has."""

    def corrupt(self, level: Level, x0: Array, noise: Array, /) -> Array:
        """Return x_t [B,*D] of q(x_t | x0), reparameterised, from x0 and standard normal noise [B,*D]."""

    def coefficients(self, schedule: Schedule, times: Array, /) -> StepCoefficients:
        """Return the coefficients of a falling time grid [N+1], N steps, in the dtype of `times`.

        Of a fixed schedule evaluate them in float64 on the host, `in_float64(process.coefficients, schedule, times)`;
        of a learned schedule they can be traced and differentiated.
        """

    def posterior(self, coefficients: StepCoefficients, x0: Array, x_t: Array, /) -> Distribution:
        """Return q(x_s | x_t, x0) for x0 and x_t [B,*D]."""

    def kl(self, p: Distribution, q: Distribution, /) -> Array:
        """Return KL(p || q) in nats [B], summed over the data dimensions."""

    def draw(self, distribution: Distribution, noise: Array, /) -> Array:
        """Return a draw [B,*D] made from standard normal noise [B,*D]; the median where the noise is 0."""

    def entropies(self, coefficients: StepCoefficients, x0: Array, /) -> Entropies:
        """Return the conditional entropies of q around a step, given x0 [B,*D]."""


def level(schedule: Schedule, t: Array) -> Level:
    """Return the noise level of a schedule at times t [*S]."""
    log_alpha, log_sigma = schedule(t)
    return Level(t, log_alpha, log_sigma)


class KeptCoefficients(NamedTuple):
    """Coefficients of a step t -> s of a process whose noise replaces values.

    Fields are scalar, [B], or [N] for a time grid.
    """

    at: Level
    """Level of t, the start of the step."""
    to: Level
    """Level of s < t, the end of the step."""
    log_kept: Array
    """log(gamma_t / gamma_s), of the share of values that the forward step s -> t keeps; gamma = alpha²."""


def kept_coefficients(schedule: Schedule, times: Array) -> KeptCoefficients:
    """Return the coefficients [N] of a falling time grid [N+1], in the dtype of `times`."""
    at, to = level(schedule, times[:-1]), level(schedule, times[1:])
    return KeptCoefficients(at, to, 2 * (at.log_alpha - to.log_alpha))


def time_of(schedule: Schedule, logsnr: Array) -> Array:
    """Return the times [*S] at which a schedule has the logsnr [*S]; 0 or 1 beyond its ends.

    By bisection, for any schedule.
    """

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        later = level(schedule, middle).logsnr > logsnr
        return jnp.where(later, middle, low), jnp.where(later, high, middle)

    low, high = jax.lax.fori_loop(0, 64, halve, (jnp.zeros_like(logsnr), jnp.ones_like(logsnr)))
    return (low + high) / 2


def expand(value: Array, like: Array) -> Array:
    """Give `value` [B] (or a scalar) the trailing axes of `like` [B, *D], so that the two broadcast."""
    value = jnp.asarray(value)
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim)) if value.ndim else value


def example_keys(key: Array, index: Array) -> Array:
    """Return a key for each example [B], from its index [B]."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


def fold_all(keys: Array, number: Any) -> Array:
    """Fold one number into each of the keys [B]."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)


def split_all(keys: Array, number: int = 2) -> Array:
    """Split each of the keys [B]; return keys [number, B]."""
    return jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, number))(keys), 1, 0)


def normal(keys: Array, shape: tuple[int, ...], dtype: Any = None) -> Array:
    """Draw standard normal noise [B, *shape], each example from its own key.

    The draw is flat and then reshaped, which compiles much faster.
    """
    size = math.prod(shape)
    return jax.vmap(lambda key: jax.random.normal(key, (size,), dtype))(keys).reshape(-1, *shape)


def in_float64(function: Callable[..., Any], *args: Any) -> Any:
    """Evaluate `function(*args)` in float64 on the host CPU, even under a trace; return NumPy arrays.

    float32 is not enough for the coefficients of a fine time grid: 1000 linear betas recovered from alpha-bar are off
    by 1e-4.

    The function is compiled with `jax.jit`, which keeps the program for the next call with the same function and the
    same arguments that are not arrays. args: NumPy arrays, which keep their float64, and hashable objects.
    """
    static = tuple(i for i, arg in enumerate(args) if not isinstance(arg, np.ndarray | np.generic))
    cpu = jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(True), jax.default_device(cpu), jax.ensure_compile_time_eval():
        return jax.tree.map(np.asarray, jax.jit(function, static_argnums=static)(*args))
