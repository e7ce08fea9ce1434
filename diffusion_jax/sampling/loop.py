"""The one loop of all fixed-grid samplers. A sampler is a `step`; the grid is data.

    step(predict, reverse, row, x, memory, keys[B]) -> (x, memory)

with predict already bound to params and label: `predict(x_t, level) -> Prediction`. `memory` is what a multi-step
method carries from step to step (None for the others). What a step needs is said by its `Method`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.objective.prediction import Prediction
from diffusion_jax.objective.reverse import Reverse
from diffusion_jax.process.base import Array, Level, Process, Schedule, in_float64

Step = Callable[..., tuple[Array, Any]]
BoundPredict = Callable[[Array, Level], Prediction]


def _as_they_are(schedule: Schedule, rows: Any) -> Any:
    return rows


class Method(NamedTuple):
    """A step and what it needs; the factories in this room return one for their options."""

    step: Step
    kernel: bool = False
    """Whether it draws from the model's kernel `reverse`."""
    score: bool = True
    """Whether it needs the eps of a Gaussian process."""
    memory: Callable[[Array], Any] = lambda x: None
    """`memory(x[B,*D])`: the memory of a walk that begins at x."""
    prepare: Callable[[Schedule, Any], Any] = _as_they_are
    """`prepare(schedule, rows[N]) -> rows[N]`: what it wants to find in its rows besides, computed with them."""
    signal: bool = False
    """Whether it cannot start where nothing of x0 is left, alpha = 0."""
    walk: Callable[..., tuple[Array, Any]] | None = None
    """`walk(predict, schedule, rows, x, memory) -> (x, memory)` of a method that chooses its own steps, in place of the
    loop."""


def rows(
    process: Process, schedule: Schedule, times: np.ndarray, denoise: bool = False, method: Method | None = None
) -> Any:
    """The rows of a grid of a fixed schedule, as a method wants them, computed in float64 on the host.

    denoise: where the schedule still has noise at the last time, append a step to sigma = 0, i.e. to the predicted x0.
    """
    if denoise and np.isfinite(in_float64(schedule, times[-1:])[1]).all():
        times = np.append(times, -1.0)
    return in_float64(_prepared, process, schedule, method.prepare if method else _as_they_are, times)


def traced_rows(
    process: Process, schedule: Schedule, times: np.ndarray, denoise: bool = False, method: Method | None = None
) -> Any:
    """As `rows`, of a learned schedule: traced, differentiable, in the default float. denoise: always append a step."""
    return _prepared(
        process,
        schedule,
        method.prepare if method else _as_they_are,
        jnp.asarray(np.append(times, -1.0) if denoise else times),
    )


def _prepared(process: Process, schedule: Schedule, prepare: Callable[[Schedule, Any], Any], times: Array) -> Any:
    path = to_noiseless(schedule)
    return prepare(path, process.coefficients(path, times))


def to_noiseless(schedule: Schedule) -> Schedule:
    """The schedule with a noiseless level at t < 0, where an appended step ends."""

    def path(t: Array) -> tuple[Array, Array]:
        log_alpha, log_sigma = schedule(jnp.maximum(t, 0))
        return jnp.where(t < 0, 0, log_alpha), jnp.where(t < 0, -jnp.inf, log_sigma)

    return path


class Sampler(NamedTuple):
    """A sampler bound to a model. x stands in the model's range; row i of a batch depends on seed or key i alone."""

    rows: Callable[[Any], Any]
    """`rows(params)`: its grid [N], from t = 1 on. Of a fixed schedule float64 arrays on the host, whatever params are;
    of a learned one traced from them."""
    start: Callable[[Any, Array], tuple[Array, Array]]
    """`start(params, seeds uint32[B]) -> (x[B,*D], keys[B])`: a draw from the prior, and the keys of what follows."""
    labels: Callable[[Array], Array | None]
    """`labels(seeds uint32[B]) -> int32[B]`: a class drawn for each seed; None if the network is told none."""
    memory: Callable[[Array], Any]
    """`memory(x[B,*D])`: what a walk that begins at x remembers; None for the methods that remember nothing."""
    walk: Callable[..., tuple[Array, Any]]
    """`walk(params, x[B,*D], memory, keys[B], rows[M], first=0, label=None) -> (x[B,*D], memory)`: M steps; rows[0] is
    number `first` of the grid."""
    guess: Callable[..., Array]
    """`guess(params, x[B,*D], level, label=None) -> x0[B,*D]`, as the sampler predicts it at a level (scalars)."""

    def sample(self, params: Any, seeds: Array, label: Array | None = None) -> Array:
        """`sample(params, seeds uint32[B], label int[B]) -> x0[B,*D]`: the whole walk; without label, `labels`."""
        return self.sample_and_memory(params, seeds, label)[0]

    def sample_and_memory(self, params: Any, seeds: Array, label: Array | None = None) -> tuple[Array, Any]:
        """As `sample`, with what is remembered at the end."""
        x, keys = self.start(params, seeds)
        label = self.labels(seeds) if label is None else label
        return self.walk(params, x, self.memory(x), keys, self.rows(params), label=label)


def sample(
    step: Step,
    predict: BoundPredict,
    reverse: Reverse | None,
    rows: Any,
    x: Array,
    keys: Array,
    memory: Any = None,
    first: Array | int = 0,
) -> tuple[Array, Any]:
    """Walk x [B,*D] from the first level of `rows` to the last, one `step` per row, in one lax.scan: (x, memory).

    keys[B]: one per sample; step i draws from fold_in(key, i), so a sample depends on its own key alone. first: the
    number of the first row, where these are but a part of a grid.
    """
    batch = x.shape[0]
    rows = jax.tree.map(lambda field: jnp.asarray(field, x.dtype), rows)

    def body(carry: tuple[Array, Any], inputs: tuple[Array, Any]) -> tuple[tuple[Array, Any], None]:
        x, memory = carry
        i, row = inputs
        row = jax.tree.map(lambda field: jnp.broadcast_to(field, (batch,)), row)
        keys_i = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, i)
        return step(predict, reverse, row, x, memory, keys_i), None

    steps = first + jnp.arange(rows.at.t.shape[0])
    (x, memory), _ = jax.lax.scan(body, (x, memory), (steps, rows))
    return x, memory
