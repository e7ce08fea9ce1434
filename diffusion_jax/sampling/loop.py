"""The loop of all samplers: a `lax.scan` over the steps of a grid.

The step coefficients are computed from the time grid.
"""

import dataclasses
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.objective.prediction import Denoiser, Prediction
from diffusion_jax.objective.reverse import Reverse
from diffusion_jax.process.base import (
    Array,
    CoefficientsFromParams,
    Level,
    Process,
    Schedule,
    ScheduleFromParams,
    StepCoefficients,
    fold_all,
    in_float64,
)
from diffusion_jax.sampling.base import (
    BoundDenoiser,
    PrepareCoefficients,
    SamplerStep,
    Step,
    same_coefficients,
)

LABELS = zlib.crc32(b"labels")
"""Stream of the key of a seed from which its class is drawn."""


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
    """Sampler of a model: a method on a time grid. Row i of a batch depends on seed or key i alone.

    Samples are in the range of the model, [-1, 1] for images.
    """

    process: Process
    schedule: ScheduleFromParams
    denoiser: Denoiser
    """With clipping and guidance, if any."""
    reverse: Reverse | None
    """For methods that draw from the model's reverse kernel."""
    method: SamplerStep
    coefficients: CoefficientsFromParams
    """Step coefficients [N] of the grid, see `coefficients` and `traced_coefficients`."""
    shape: tuple[int, ...]
    """*D, the shape of a sample."""
    num_classes: int = 0
    """Classes from which `labels` draws; 0 for a model without labels."""

    def start(self, params: Any, seeds: Array) -> tuple[Array, Array]:
        """Return (x [B,*D] drawn from the prior, keys [B] of the steps) for seeds uint32 [B]."""
        keys_prior, keys = jnp.moveaxis(jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)))(seeds), 1, 0)
        return self.process.prior(self.schedule(params), keys_prior, self.shape), keys

    def labels(self, seeds: Array) -> Array | None:
        """Return a class int32 [B] drawn for each seed uint32 [B]; None for a model without labels."""
        if not self.num_classes:
            return None
        keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), LABELS))(seeds)
        return jax.vmap(lambda key: jax.random.randint(key, (), 0, self.num_classes))(keys)

    def init_carry(self, x: Array) -> Any:
        """Return the carry of a walk that starts at x [B,*D]."""
        return self.method.init_carry(x)

    def walk(
        self,
        params: Any,
        x: Array,
        carry: Any,
        keys: Array,
        coefficients: StepCoefficients,
        first: Array | int = 0,
        label: Array | None = None,
    ) -> tuple[Array, Any]:
        """Return (x [B,*D], carry) after the steps of the grid, or of a part of the grid.

        Args:
            params: the parameters of the model.
            x: [B,*D] at the first level of the part.
            carry: from `init_carry`, or from the part before.
            keys: [B], the same for all parts.
            coefficients: of M steps.
            first: index in the grid of the first of these steps.
            label: class labels int [B], or None.
        """

        def denoise(x: Array, level: Level) -> Prediction:
            return self.denoiser(params, x, level, label, None)

        if self.method.walk is not None:
            return self.method.walk(denoise, self.schedule(params), coefficients, x, carry)
        assert self.method.step is not None
        return sample(self.method.step, denoise, self.reverse, coefficients, x, keys, carry, first)

    def predict_x0(self, params: Any, x: Array, level: Level, label: Array | None = None) -> Array:
        """Return the predicted x0 [B,*D] for x [B,*D] at one level (scalars)."""
        each = jax.tree.map(lambda field: jnp.full(len(x), field, x.dtype), level)
        return self.denoiser(params, x, each, label, None).x0

    def sample(self, params: Any, seeds: Array, label: Array | None = None) -> Array:
        """Return samples [B,*D] for seeds uint32 [B]; without label [B], of the classes that `labels` draws."""
        return self.sample_and_carry(params, seeds, label)[0]

    def sample_and_carry(self, params: Any, seeds: Array, label: Array | None = None) -> tuple[Array, Any]:
        """Return (samples [B,*D], carry at the end); as `sample`."""
        x, keys = self.start(params, seeds)
        label = self.labels(seeds) if label is None else label
        return self.walk(params, x, self.init_carry(x), keys, self.coefficients(params), label=label)

    def sample_and_status(self, params: Any, seeds: Array, label: Array | None = None) -> tuple[Array, Array]:
        """Return (samples [B,*D], bool [B]: whether an adaptive method solved a sample to its tolerance)."""
        x, carry = self.sample_and_carry(params, seeds, label)
        return x, jnp.ones(len(x), bool) if self.method.solved is None else self.method.solved(carry)


def sample(
    step: Step,
    denoise: BoundDenoiser,
    reverse: Reverse | None,
    coefficients: StepCoefficients,
    x: Array,
    keys: Array,
    carry: Any = None,
    first: Array | int = 0,
) -> tuple[Array, Any]:
    """Return (x [B,*D], carry) after one `step` for each of N step coefficients, in one `lax.scan`.

    Args:
        step, denoise, reverse, carry: see `base.Step`.
        coefficients: of the N steps, the first one from the level of x.
        x: [B,*D].
        keys: [B]; step i draws from fold_in(key, i), so that a sample depends on its own key alone.
        first: index i of the first step, if the coefficients belong to a part of a grid.
    """
    batch = x.shape[0]
    coefficients = jax.tree.map(lambda field: jnp.asarray(field, x.dtype), coefficients)

    def body(state: tuple[Array, Any], inputs: tuple[Array, Any]) -> tuple[tuple[Array, Any], None]:
        x, carry = state
        i, of_step = inputs
        of_step = jax.tree.map(lambda field: jnp.broadcast_to(field, (batch,)), of_step)
        keys_i = fold_all(keys, i)
        return step(denoise, reverse, of_step, x, carry, keys_i), None

    steps = first + jnp.arange(coefficients.at.t.shape[0])
    (x, carry), _ = jax.lax.scan(body, (x, carry), (steps, coefficients))
    return x, carry


def coefficients(
    process: Process, schedule: Schedule, times: np.ndarray, denoise: bool = False, method: SamplerStep | None = None
) -> StepCoefficients:
    """Return the step coefficients [N] of a grid of a fixed schedule.

    They are computed in float64 on the host.

    Args:
        process, schedule: of the model.
        times: falling times [N+1].
        denoise: whether to append a step to sigma = 0, to the predicted x0, if there is still noise at the last time.
        method: the sampler method that derives its own coefficients, if any.
    """
    if denoise and np.isfinite(in_float64(schedule, times[-1:])[1]).all():
        times = np.append(times, -1.0)
    return in_float64(_prepared, process, schedule, method.prepare if method else same_coefficients, times)


def traced_coefficients(
    process: Process, schedule: Schedule, times: np.ndarray, denoise: bool = False, method: SamplerStep | None = None
) -> StepCoefficients:
    """Return the step coefficients of a learned schedule, traced and differentiable.

    They are in the default float. Arguments as of `coefficients`, except that `denoise` always appends a step.
    """
    return _prepared(
        process,
        schedule,
        method.prepare if method else same_coefficients,
        jnp.asarray(np.append(times, -1.0) if denoise else times),
    )


def _prepared(process: Process, schedule: Schedule, prepare: PrepareCoefficients, times: Array) -> StepCoefficients:
    extended = to_noiseless(schedule)
    return prepare(extended, process.coefficients(extended, times))


def to_noiseless(schedule: Schedule) -> Schedule:
    """Extend a schedule by a noiseless level at t < 0, where an appended step ends."""

    def extended(t: Array) -> tuple[Array, Array]:
        log_alpha, log_sigma = schedule(jnp.maximum(t, 0))
        return jnp.where(t < 0, 0, log_alpha), jnp.where(t < 0, -jnp.inf, log_sigma)

    return extended
