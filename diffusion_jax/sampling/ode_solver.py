"""Adaptive solver of ordinary differential equations, for sampling, encoding and likelihoods.

Every sample has its own time, step and error, so that none depends on its batch; the loop runs until all are done.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.process.base import Array, expand

NODES = np.array([1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1])
STAGES = np.array(
    [
        [1 / 5, 0, 0, 0, 0, 0, 0],
        [3 / 40, 9 / 40, 0, 0, 0, 0, 0],
        [44 / 45, -56 / 15, 32 / 9, 0, 0, 0, 0],
        [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729, 0, 0, 0],
        [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656, 0, 0],
        [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0],
    ]
)
"""Weights of the slopes that are known, for the point at which the next one is taken. The last row is the solution of
order 5, so that its slope is the first of the next step."""
ERROR = np.array([71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40])
"""Order 5 minus order 4."""
SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0


Derivative = Callable[[Any, Array], Any]
"""Right-hand side dx/dt for x, an array [B,*D] or a tree of such, at t [B]; row i depends on row i alone."""


class _State(NamedTuple):
    t: Array
    step: Array
    x: Any
    slope: Any
    calls: Array
    active: Array
    ok: Array


def solve_ode(
    derivative: Derivative, x: Any, t0: Array | float, t1: Array | float, rtol: float, atol: float, max_calls: int
) -> tuple[Any, Array, Array]:
    """Solve dx/dt from t0 to t1 (scalars or [B], in either direction): (x at t1, calls int [B], ok bool [B]).

    The pair of Dormand and Prince 1980, orders 5 and 4, with the first step and the rule for the next of Hairer,
    Norsett and Wanner 1993, section II.4. A step of a sample is kept if in every leaf of its x the root mean square of
    error / (atol + rtol |x|) is at most 1. calls: of `derivative`, 2 to begin with and 6 per step tried. ok: whether
    t1 was reached; if not (max_calls used up, steps too short for the precision of t, or a slope that is not finite),
    x is what had been reached. Not differentiable in reverse mode.
    """
    first = jax.tree.leaves(x)[0]
    batch, dtype = len(first), first.dtype
    t0, t1 = (jnp.broadcast_to(jnp.asarray(t, dtype), (batch,)) for t in (t0, t1))
    span = t1 - t0
    slope, step = _start(derivative, x, t0, span, rtol, atol)
    least = 4 * jnp.finfo(dtype).eps * jnp.maximum(jnp.abs(t0), jnp.abs(t1))

    def body(state: _State) -> _State:
        left = t1 - state.t
        last = jnp.abs(state.step) >= jnp.abs(left)
        h = jnp.where(last, left, state.step)

        def stage(carry: tuple[Any, Any], inputs: tuple[Array, Array, Array]) -> tuple[tuple[Any, Any], None]:
            slopes, _ = carry
            i, node, weights = inputs
            at = _advance(state.x, h, weights, slopes)
            slope = derivative(at, state.t + node * h)
            return (jax.tree.map(lambda all, one: all.at[i].set(one), slopes, slope), at), None

        slopes = jax.tree.map(lambda f: jnp.zeros((7, *f.shape), f.dtype).at[0].set(f), state.slope)
        inputs = jnp.arange(1, 7), jnp.asarray(NODES, dtype), jnp.asarray(STAGES, dtype)
        (slopes, end), _ = jax.lax.scan(stage, (slopes, state.x), inputs)
        nought = jax.tree.map(jnp.zeros_like, state.x)
        error = _norm(_advance(nought, h, jnp.asarray(ERROR, dtype), slopes), state.x, end, rtol, atol)
        kept = state.active & (error <= 1)  # never if it is not a number
        factor = jnp.clip(SAFETY * jnp.maximum(error, 1e-10) ** -0.2, SHRINK, GROW)
        factor = jnp.where(jnp.isfinite(error), jnp.where(kept, factor, jnp.minimum(factor, 1.0)), SHRINK)
        calls = state.calls + jnp.where(state.active, 6, 0)
        done = kept & last
        step = jnp.where(state.active, h * factor, state.step)
        goes_on = state.active & ~done & (calls + 6 <= max_calls) & (jnp.abs(step) > least)
        choose = lambda new, old: jnp.where(expand(kept, new), new, old)  # noqa: E731
        return _State(
            t=jnp.where(kept, jnp.where(last, t1, state.t + h), state.t),
            step=step,
            x=jax.tree.map(choose, end, state.x),
            slope=jax.tree.map(lambda new, old: choose(new[-1], old), slopes, state.slope),
            calls=calls,
            active=goes_on,
            ok=state.ok | done,
        )

    there = span == 0
    finite = jnp.stack([jnp.isfinite(f).reshape(batch, -1).all(1) for f in jax.tree.leaves(slope)]).all(0)
    calls = jnp.full(batch, 2, jnp.int32)
    start = _State(t0, step, x, slope, calls, ~there & finite & (max_calls >= 8), there)
    end = jax.lax.while_loop(lambda state: state.active.any(), body, start)
    return end.x, end.calls, end.ok


def _advance(x: Any, h: Array, weights: Array, slopes: Any) -> Any:
    """Return x + h sum_i weights_i slopes_i for leaves of slopes [7,B,*D]."""
    return jax.tree.map(lambda x, slopes: x + expand(h, x) * (expand(weights, slopes) * slopes).sum(0), x, slopes)


def _norm(error: Any, before: Any, after: Any, rtol: float, atol: float) -> Array:
    """Return the root mean square [B] of error / (atol + rtol |x|), the largest over the leaves."""

    def of_leaf(error: Array, before: Array, after: Array) -> Array:
        scaled = error / (atol + rtol * jnp.maximum(jnp.abs(before), jnp.abs(after)))
        return jnp.sqrt(jnp.square(scaled).reshape(len(error), -1).mean(1))

    return jnp.stack(jax.tree.leaves(jax.tree.map(of_leaf, error, before, after))).max(0)


def _start(derivative: Derivative, x: Any, t0: Array, span: Array, rtol: float, atol: float) -> tuple[Any, Array]:
    """Return the slope at t0 and a first step [B] with an error near the tolerance."""
    most, sign, size = jnp.abs(span), jnp.sign(span), _norm(x, x, x, rtol, atol)

    def evaluate(ahead: tuple[Any, Array], _: None) -> tuple[tuple[Any, Array], tuple[Any, Array]]:
        further, by = ahead
        slope = derivative(further, t0 + by)
        rate = _norm(slope, x, x, rtol, atol)
        small = jnp.where((size < 1e-5) | (rate < 1e-5), 1e-6, 0.01 * size / jnp.maximum(rate, 1e-5))
        by = sign * jnp.minimum(small, most)
        further = jax.tree.map(lambda x, slope: x + expand(by, x) * slope, x, slope)
        return (further, by), (slope, by)

    _, (slopes, (by, _)) = jax.lax.scan(evaluate, (x, jnp.zeros_like(t0)), length=2)
    slope = jax.tree.map(lambda f: f[0], slopes)
    small = jnp.abs(by)
    change = _norm(jax.tree.map(lambda f: f[1] - f[0], slopes), x, x, rtol, atol) / jnp.maximum(small, 1e-30)
    steepest = jnp.maximum(_norm(slope, x, x, rtol, atol), change)
    fitting = jnp.where(steepest <= 1e-15, jnp.maximum(1e-6, 1e-3 * small), (0.01 / steepest) ** 0.2)
    step = jnp.minimum(jnp.minimum(100 * small, fitting), most)
    return slope, sign * jnp.where(jnp.isfinite(step), step, small)
