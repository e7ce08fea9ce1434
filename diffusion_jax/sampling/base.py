"""Contracts of samplers: the step t -> s, and the needs of a method.

A sampler method is a function `step`; the time grid and its coefficients are data. `loop.sample` takes the steps.

Shapes: B samples, *D data dimensions, N steps of a grid.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.objective.prediction import Prediction
from diffusion_jax.objective.reverse import Reverse
from diffusion_jax.process.base import Array, Level, Schedule, StepCoefficients, in_float64

BoundDenoiser = Callable[[Array, Level], Prediction]
"""Denoiser bound to parameters and labels: (noisy x_t [B,*D], levels [B]) -> prediction."""
Step = Callable[[BoundDenoiser, Reverse | None, StepCoefficients, Array, Any, Array], tuple[Array, Any]]
"""Step of a sampler from t to s < t: (denoise, reverse, coefficients, x, carry, keys) -> (x_s [B,*D], carry).

denoise is the model and reverse its kernel, for methods with `uses_kernel`; coefficients belong to the step, fields
[B]; x is x_t [B,*D]; carry is the state of a multistep method, None for any other method; keys are PRNG keys [B], one
per sample."""
InitCarry = Callable[[Array], Any]
"""Initial carry of a multistep method, for a walk that starts at x [B,*D]."""
PrepareCoefficients = Callable[[Schedule, StepCoefficients], StepCoefficients]
"""Coefficients [N] that the steps of a method take, from a schedule and the coefficients of the process."""
AdaptiveWalk = Callable[[BoundDenoiser, Schedule, StepCoefficients, Array, Any], tuple[Array, Any]]
"""Walk of a method that chooses its own steps: (denoise, schedule, coefficients, x, carry) -> (x [B,*D], carry).

The coefficients belong to a grid [N], of which only the ends matter; x is [B,*D] at the first level; carry is from
`init_carry` or an earlier part of the grid."""


def no_carry(x: Array) -> None:
    """Return None, the carry of single-step methods."""


def same_coefficients(schedule: Schedule, coefficients: StepCoefficients) -> StepCoefficients:
    """Return the coefficients of the process as they are."""
    return coefficients


class SamplerStep(NamedTuple):
    """Step of a sampler and its needs. Each sampler is a factory that returns a SamplerStep for its options."""

    step: Step | None
    """None for an adaptive method."""
    uses_kernel: bool = False
    """Whether it draws from the model's reverse kernel."""
    kernel_only: bool = False
    """Whether it moves x by that kernel alone, so that the samples are conditioned where the kernel is."""
    needs_score: bool = True
    """Whether it needs the predicted noise, which only a Gaussian process has."""
    needs_signal: bool = False
    """Whether it cannot start where alpha = 0."""
    from_noise: "SamplerStep | None" = None
    """For a method that needs signal: its form for schedules with alpha = 0 at t = 1, see `starting`."""
    between_levels: bool = False
    """Whether it evaluates the denoiser at levels that are not of the grid."""
    mean_velocity: bool = False
    """Whether it needs a model of the mean velocity between two times."""
    direct: bool = False
    """Whether it needs a model without noise levels."""
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


def starting(method: SamplerStep, schedule: Schedule) -> SamplerStep:
    """Return the form of a method that starts at t = 1 of a schedule.

    This is `from_noise` where no signal is left at t = 1, and the method itself elsewhere, or if it has no such form.
    """
    if method.from_noise is None or np.exp(in_float64(schedule, np.ones(()))[0]):
        return method
    return method.from_noise
