"""The nouns of the forward process q: a schedule, a level on its path, and the functions of a process.

Time t runs from 0 (the cleanest level) to 1 (the prior), and always s < t:

    x_t = alpha(t) x0 + sigma(t) noise,      alpha and sigma >= 0, standard deviations, never variances.

A schedule is any function from t to (log alpha, log sigma); everything else in the package is a function over that.
In logarithms the ends need no special case: a noiseless t = 0 is log sigma = -inf.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Schedule = Callable[[Array], tuple[Array, Array]]
"""`schedule(t[*S]) -> (log_alpha[*S], log_sigma[*S])` in the dtype of t."""


class Level(NamedTuple):
    """Where on the path a noisy example stands: all that a network may be told about it. Fields are [B] (or scalar)."""

    t: Array
    log_alpha: Array
    log_sigma: Array

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


class Process(NamedTuple):
    """A forward process, as the functions that objectives and samplers need.

    A law, of x_s say, is what `posterior` returns: (mean, log_var) of Gaussians, (rate, None) of bits.

    prior(schedule, keys[B], shape) -> x_1[B, *shape]: a draw from the known distribution p(x_1) at t = 1.
    prior_kl(schedule, x0[B,*D]) -> nats[B]: KL(q(x_1 | x0) || p(x_1)), what is not destroyed by then.
    corrupt(level, x0[B,*D], noise[B,*D]) -> x_t[B,*D]: q(x_t | x0), reparameterised.
    coefficients(schedule, times[N+1]) -> rows: one row per step of a falling time grid; see the process for its fields.
    posterior(row, x0, x_t) -> (mean[B,*D], log_var): q(x_s | x_t, x0).
    kl(p, q) -> nats[B]: between two laws, summed over the data dimensions.
    draw(law, noise[B,*D]) -> x_s[B,*D]: from standard normal noise; where that is 0, the median.
    prior_entropy(schedule, x0[B,*D]) -> nats[B]: of p(x_1) in as many dimensions as x0.
    entropies(row, x0[B,*D]) -> `Entropies`: of q, given x0 (given nothing, where the noise does not depend on x0).
    """

    prior: Callable[..., Array]
    prior_kl: Callable[..., Array]
    corrupt: Callable[..., Array]
    coefficients: Callable[..., Any]
    posterior: Callable[..., tuple[Array, Any]]
    kl: Callable[..., Array]
    draw: Callable[..., Array]
    prior_entropy: Callable[..., Array]
    entropies: Callable[..., "Entropies"]


class Entropies(NamedTuple):
    """Conditional entropies of the forward process around a step t -> s, in nats [B], summed over the data dimensions.

    With them H(x_s | x_t, x0) = step + to - at, which is exact since q is a Markov chain.
    """

    at: Array
    """H(x_t | x0)."""
    to: Array
    """H(x_s | x0)."""
    step: Array
    """H(x_t | x_s), x_s being drawn from q(x_s | x0)."""


def level(schedule: Schedule, t: Array) -> Level:
    """The level at time t [*S]."""
    log_alpha, log_sigma = schedule(t)
    return Level(t, log_alpha, log_sigma)


def time_of(schedule: Schedule, logsnr: Array) -> Array:
    """The times [*S] at which a schedule has these logsnr [*S], by bisection; 0 or 1 beyond its ends."""

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


def normal(keys: Array, shape: tuple[int, ...], dtype: Any = None) -> Array:
    """Standard normal noise [B, *shape], each example from its own key. Drawn flat, which compiles much faster."""
    size = math.prod(shape)
    return jax.vmap(lambda key: jax.random.normal(key, (size,), dtype))(keys).reshape(-1, *shape)


def in_float64(function: Callable[..., Any], *args: Any) -> Any:
    """Evaluate `function(*args)` in float64 on the host CPU, at once even under a trace; arrays come back as NumPy.

    float32 is not enough for the coefficients of a fine time grid: 1000 linear betas recovered from alpha-bar are off
    by 1e-4. NumPy arrays among `args` keep their float64; the result is cast when it is used. The latest results are
    remembered, by the function itself and its arguments: compiling takes longer than all else here.
    """
    fixed = [_Fixed(*_bytes(arg)) if isinstance(arg, np.ndarray | np.generic) else arg for arg in args]
    try:
        hash((function, *fixed))
    except TypeError:  # parameters
        return _in_float64.__wrapped__(function, *fixed)
    return _in_float64(function, *fixed)


class _Fixed(NamedTuple):
    """A NumPy array that can be hashed."""

    content: bytes
    dtype: str
    shape: tuple[int, ...]


def _bytes(array: np.ndarray | np.generic) -> tuple[bytes, str, tuple[int, ...]]:
    return array.tobytes(), array.dtype.str, array.shape


@functools.lru_cache(maxsize=128, typed=True)
def _in_float64(function: Callable[..., Any], *args: Any) -> Any:
    arrays = {
        i: np.frombuffer(arg.content, arg.dtype).reshape(arg.shape)
        for i, arg in enumerate(args)
        if isinstance(arg, _Fixed)
    }

    def compiled(arrays: dict[int, Array]) -> Any:
        return function(*(arrays.get(i, arg) for i, arg in enumerate(args)))

    cpu = jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(True), jax.default_device(cpu), jax.ensure_compile_time_eval():
        return jax.tree.map(np.asarray, jax.jit(compiled)(arrays))
