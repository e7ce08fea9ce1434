"""Schedule of a config, fixed, learned or frozen, and its step coefficients."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.declarations import Facts, facts_of
from diffusion_jax.experiment.choices import CHAIN_NEEDED, Instance, choose, make, options
from diffusion_jax.objective import reverse
from diffusion_jax.process import learned, schedules
from diffusion_jax.process.base import Array, Process, Schedule, in_float64, level
from diffusion_jax.process.learned import LearnedSchedule, ModelSchedule
from diffusion_jax.sampling import grids, loop
from diffusion_jax.sampling.base import SamplerStep

SCHEDULES = schedules.CHAINS | schedules.CONTINUOUS | learned.LEARNED


def schedule(config: ConfigDict, params: Any = None) -> ModelSchedule:
    """Return the noise schedule of a config. params: of a trained run; they freeze a learned schedule."""
    made = ModelSchedule(_scheduled(config))
    return made if params is None else made.freeze(params)


def _scheduled(config: ConfigDict) -> Schedule | LearnedSchedule:
    """Return what the factory of a config's schedule makes."""
    name, steps, given = config.schedule.name, config.process.num_steps, tuple(options(config.schedule).items())
    try:
        return _made(name, steps, given)
    except (ArithmeticError, TypeError, ValueError) as error:
        if str(error).startswith("schedule.name="):
            raise
        what = f" with {dict(given)}" if given else ""
        raise ValueError(f"schedule.name={name!r}{what} gives no schedule: {error}") from error


@functools.lru_cache(maxsize=64, typed=True)
def _made(name: str | Instance, steps: int, given: tuple[tuple[str, Any], ...]) -> Schedule | LearnedSchedule:
    """Return a checked schedule, cached so that its coefficients can be cached."""
    with np.errstate(all="ignore"):  # the check below finds whatever comes of it
        made: Schedule | LearnedSchedule = make("schedule.name", name, SCHEDULES, dict(given), num_steps=steps)
    if not isinstance(made, LearnedSchedule):
        check_schedule(made, steps)
    return made


def is_learned(config: ConfigDict) -> bool:
    """Return True if the schedule of a config has parameters."""
    return schedule(config).fixed is None


def check_schedule(schedule: Schedule, num_steps: int) -> None:
    """Raise ValueError unless sigma/alpha rises with t. Checked at the levels of a chain, or at 64 times."""
    times = np.linspace(0, 1, (num_steps or 64) + 1)
    found = in_float64(level, schedule, times)
    ratio = found.log_sigma - found.log_alpha
    if np.iscomplexobj(ratio) or not np.all(np.isfinite(found.log_alpha[:-1])) or not np.all(np.diff(ratio) > 0):
        raise ValueError("the ratio of noise to signal must be finite before t = 1 and rise with t")


def preserves_variance(config: ConfigDict) -> bool:
    """Return True if alpha² + sigma² = 1 at the levels of a chain, or at 64 times."""
    found = in_float64(level, initial_schedule(config), np.linspace(0, 1, (config.process.num_steps or 64) + 1))
    return bool(np.allclose(np.exp(2 * found.log_alpha) + np.exp(2 * found.log_sigma), 1, rtol=0, atol=1e-4))


def has_signal(config: ConfigDict) -> bool:
    """Return True if the schedule of a config leaves signal at t = 1."""
    return bool(np.exp(in_float64(initial_schedule(config), np.ones(()))[0]))


def initial_schedule(config: ConfigDict) -> Schedule:
    """Return the schedule before training."""
    return schedule(config, {"schedule": initial_schedule_params(config, jax.random.key(config.seed))})(None)


def chain_coefficients(
    config: ConfigDict, process: Process, path: ModelSchedule, num_steps: int = 0
) -> Callable[[Any], Any]:
    """Return `coefficients(params)` of the steps of the bound down to no noise.

    num_steps: the number of steps; 0: as many as the chain has.
    """
    chain = config.process.num_steps
    if not (num_steps or chain):
        raise ValueError(f"bound.num_steps=0 means as many as the chain has; set it, or have {CHAIN_NEEDED}")
    if num_steps not in (0, chain):
        check_single_steps(config, "bound.num_steps=0")
    return grid_coefficients(config, process, path, grids.uniform(num_steps or chain, chain), denoise=True)


def K_coefficients(config: ConfigDict, process: Process, path: ModelSchedule) -> Callable[[Any], Any]:
    """Return `coefficients(params)` of the T steps of the chain.

    The noise at t = 0 is the schedule's own. The bound K leaves the last step out, so that the noise at t = 0 may be
    any. Raises ValueError for masks.
    """
    if process.masks:
        raise ValueError(
            "K: compares x_1 with the noise of the process, which values cannot equal where it is a mask "
            "(process.categorical.noise='absorbing'). Use loss.name=masked or vlb, and --likelihood=vlb"
        )
    steps = config.process.num_steps
    return grid_coefficients(config, process, path, grids.uniform(steps, steps), denoise=False)


def grid_coefficients(
    config: ConfigDict,
    process: Process,
    path: ModelSchedule,
    times: np.ndarray,
    denoise: bool,
    method: SamplerStep | None = None,
) -> Callable[[Any], Any]:
    """Return `coefficients(params)` of the steps of a time grid.

    The coefficients of a fixed schedule are computed once, in float64 on the host; the coefficients of a learned
    schedule are traced from its parameters.
    """
    if path.fixed is None:
        noisy = np.isfinite(in_float64(initial_schedule(config), times[-1:])[1][0])
        return lambda params: loop.traced_coefficients(process, path(params), times, denoise and bool(noisy), method)
    fixed = loop.coefficients(process, path(None), times, denoise, method)
    return lambda params: fixed


def check_single_steps(config: ConfigDict, instead: str) -> None:
    """Raise ValueError for a variance that only single steps of the chain have."""
    if variance_facts(config).single_steps:
        raise ValueError(
            f"prediction.variance={config.prediction.variance!r}: belongs to single steps of the chain. Leave "
            f"{instead}, or use learned_range for other steps"
        )


def variance_facts(config: ConfigDict) -> Facts:
    """Return the facts that the reverse variance of a config declares."""
    return facts_of(choose("prediction.variance", config.prediction.variance, reverse.VARIANCES))


def lowest_time(config: ConfigDict, path: ModelSchedule, min_t: float = 0.0) -> float:
    """Return the time at which an ODE ends.

    It is min_t, or for 0 the lowest level with noise, or else 1e-5. The lowest level of a chain is 1/T, of VE, EDM and
    the like 0. Reference for 1e-5: Song et al. 2021, appendix C.
    """
    if min_t:
        return min_t
    if config.process.num_steps:
        return 1 / int(config.process.num_steps)
    if is_learned(config):
        return 0.0
    return 0.0 if np.isfinite(in_float64(path(None), np.zeros(1))[1]).all() else 1e-5


def initial_schedule_params(config: ConfigDict, key: Array) -> Any:
    """Return the parameters of a schedule before training; None for a fixed one."""
    return schedule(config).init(jax.random.fold_in(key, 1))
