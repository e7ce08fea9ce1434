"""Contracts of samplers: the step t -> s of a time grid, and what a method needs.

A sampler method is a function `step`; the time grid and its coefficients are data. `loop.sample` takes the steps.

Shapes: B samples, *D data dimensions, N steps of a grid.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from diffusion_jax.objective.prediction import Prediction
from diffusion_jax.objective.reverse import Reverse
from diffusion_jax.process.base import Array, Level, Schedule, StepCoefficients


class BoundDenoiser(Protocol):
    """Denoiser bound to parameters and labels."""

    def __call__(self, x_t: Array, level: Level, /) -> Prediction:
        """Return the prediction for noisy x_t [B,*D] at levels [B]."""


class Step(Protocol):
    """Step of a sampler from a level t to a level s < t."""

    def __call__(
        self,
        denoise: BoundDenoiser,
        reverse: Reverse | None,
        coefficients: StepCoefficients,
        x: Array,
        carry: Any,
        keys: Array,
        /,
    ) -> tuple[Array, Any]:
        """Return (x_s [B,*D], carry for the next step).

        Args:
            denoise: the model.
            reverse: the model's reverse kernel, for methods with `uses_kernel`.
            coefficients: of the step, fields [B].
            x: x_t [B,*D].
            carry: state of a multistep method; None for the others.
            keys: PRNG keys [B], one per sample.
        """


class InitCarry(Protocol):
    """Initial carry of a multistep method."""

    def __call__(self, x: Array, /) -> Any:
        """Return the carry of a walk that starts at x [B,*D]."""


class PrepareCoefficients(Protocol):
    """Derivation of a method's own step coefficients."""

    def __call__(self, schedule: Schedule, coefficients: StepCoefficients, /) -> StepCoefficients:
        """Return the coefficients [N] that the method's steps take, from those of the process."""


class AdaptiveWalk(Protocol):
    """Walk of a method that chooses its own steps."""

    def __call__(
        self, denoise: BoundDenoiser, schedule: Schedule, coefficients: StepCoefficients, x: Array, carry: Any, /
    ) -> tuple[Array, Any]:
        """Return (x [B,*D], carry) at the end of the grid.

        Args:
            denoise: the model.
            schedule: the noise schedule.
            coefficients: of a grid [N], of which only the ends matter.
            x: [B,*D] at the first level.
            carry: state, from `init_carry` or an earlier part of the grid.
        """


def no_carry(x: Array) -> None:
    """Return None, the carry of single-step methods."""


def same_coefficients(schedule: Schedule, coefficients: StepCoefficients) -> StepCoefficients:
    """Return the coefficients of the process as they are."""
    return coefficients


class SamplerStep(NamedTuple):
    """Step of a sampler and what it needs; each sampler is a factory that returns one for its options."""

    step: Step | None
    """None for an adaptive method."""
    uses_kernel: bool = False
    """Whether it draws from the model's reverse kernel."""
    needs_score: bool = True
    """Whether it needs the predicted noise, which only a Gaussian process has."""
    needs_signal: bool = False
    """Whether it cannot start where alpha = 0."""
    between_levels: bool = False
    """Whether it evaluates the denoiser at levels that are not of the grid."""
    init_carry: InitCarry = no_carry
    prepare: PrepareCoefficients = same_coefficients
    walk: AdaptiveWalk | None = None
    """For an adaptive method: takes the place of the loop over `step`."""
    solved: Callable[[Any], Array] | None = None
    """For an adaptive method: carry -> bool [B], whether a sample reached the end within the tolerance."""
    settings: str = ""
    """For an adaptive method: its tolerances, for messages."""

    @property
    def adaptive(self) -> bool:
        """True for a method that chooses its own steps."""
        return self.walk is not None
