"""The schedule of a config, fixed, learned or frozen, and the rows of a time grid of it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.experiment.choices import NEED_CHAIN, choose, options
from diffusion_jax.process import learned, schedules
from diffusion_jax.process.base import Array, Process, Schedule, in_float64, level
from diffusion_jax.sampling import loop

SCHEDULES = schedules.CHAINS | schedules.CONTINUOUS | learned.LEARNED


LEARNED_SCHEDULES = tuple(learned.LEARNED)
"""Schedules that have parameters."""


def schedule(config: ConfigDict, params: Any = None) -> Callable[[Any], Schedule]:
    """The function params -> Schedule of a config.

    params: where given, those of a trained run, of which a learned schedule is made once and for all: *frozen*. One
    that is not frozen reads params["schedule"] whenever it is asked, and raises ValueError where there are none.
    """
    name = config.schedule.name
    made = _scheduled(config)
    if name not in LEARNED_SCHEDULES:
        return lambda params: made
    if params is not None:
        frozen = made.schedule(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["schedule"]))
        return lambda params: frozen

    def path(params: Any) -> Schedule:
        if params is None:
            raise ValueError(
                f"schedule.name={name!r} is learned, and a fixed grid of it needs its parameters: freeze it by "
                "build.build(config, params), as trained.load does"
            )
        return made.schedule(params["schedule"])

    return path


def _scheduled(config: ConfigDict) -> Any:
    """What the factory of the schedule returns: a Schedule, or a Learned."""
    name, steps = config.schedule.name, config.process.num_steps
    factory = choose("schedule.name", name, SCHEDULES)
    needs_chain = name in schedules.CHAINS or name == "learned_betas"
    if needs_chain and not steps:
        raise ValueError(f"schedule.name={name!r} needs {NEED_CHAIN}")
    try:
        with np.errstate(all="ignore"):  # what comes of it is checked
            if name in LEARNED_SCHEDULES:
                return factory(*[steps] if needs_chain else [], **options(config.schedule))
            return _fixed(factory, needs_chain, steps, tuple(options(config.schedule).items()))
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ValueError(f"schedule.{name}={options(config.schedule)} gives no schedule: {error}") from error


@functools.lru_cache(maxsize=64, typed=True)
def _fixed(factory: Callable[..., Schedule], needs_chain: bool, steps: int, options: tuple[Any, ...]) -> Schedule:
    """A fixed schedule, checked; the same function every time, so that what is computed from it can be remembered."""
    made = factory(*[steps] if needs_chain else [], **dict(options))
    check_schedule(made, steps)
    return made


def check_schedule(schedule: Schedule, num_steps: int) -> None:
    """Raise ValueError unless the ratio of noise to signal rises with t, at the levels of a chain or at 64 others."""
    times = np.linspace(0, 1, (num_steps or 64) + 1)
    found = in_float64(level, schedule, times)
    ratio = found.log_sigma - found.log_alpha
    if np.iscomplexobj(ratio) or not np.all(np.isfinite(found.log_alpha[:-1])) or not np.all(np.diff(ratio) > 0):
        raise ValueError("the ratio of noise to signal must be finite before t = 1 and rise with t")


def at_first(config: ConfigDict) -> Schedule:
    """The schedule before training, for what a config can say without parameters."""
    return schedule(config, {"schedule": init_schedule(config, jax.random.key(config.seed))})(None)


def chain_rows(
    config: ConfigDict, process: Process, path: Callable[[Any], Schedule], num_steps: int = 0
) -> Callable[[Any], Any]:
    """`rows(params)`: the steps of the bound, of the chain or num_steps of its levels, down to that without noise."""
    chain = config.process.num_steps
    if not (num_steps or chain):
        raise ValueError(f"bound.num_steps=0 means as many as the chain has; set it, or have {NEED_CHAIN}")
    if num_steps not in (0, chain):
        check_single_steps(config, "bound.num_steps=0")
    return grid_rows(config, process, path, loop.uniform_times(num_steps or chain, chain), denoise=True)


def K_rows(config: ConfigDict, process: Process, path: Callable[[Any], Schedule]) -> Callable[[Any], Any]:
    """`rows(params)`: the T steps of the chain down to t = 0, with noise there or without, for K stops before."""
    steps = config.process.num_steps
    return grid_rows(config, process, path, loop.uniform_times(steps, steps), denoise=False)


def grid_rows(
    config: ConfigDict,
    process: Process,
    path: Callable[[Any], Schedule],
    times: np.ndarray,
    denoise: bool,
    method: loop.Method | None = None,
) -> Callable[[Any], Any]:
    """`rows(params)` of a grid: computed once, in float64 on the host, or of a learned schedule traced from params."""
    try:
        known = path(None)
    except ValueError:  # learned, and not frozen
        noisy = np.isfinite(in_float64(at_first(config), times[-1:])[1][0])
        return lambda params: loop.traced_rows(process, path(params), times, denoise and bool(noisy), method)
    fixed = loop.rows(process, known, times, denoise, method)
    return lambda params: fixed


def check_single_steps(config: ConfigDict, instead: str) -> None:
    """Raise ValueError for steps over several levels of the chain with a variance that is learned for single ones."""
    if config.prediction.variance == "learned_diagonal":
        raise ValueError(
            f"prediction.variance='learned_diagonal' is that of single steps of the chain; leave {instead}, or use "
            "learned_range for fewer steps"
        )


def lowest_time(config: ConfigDict, path: Callable[[Any], Schedule], min_t: float = 0.0) -> float:
    """Where an ODE ends: min_t, or for 0 the lowest level with noise of a schedule that has one, or else t = 1e-5.

    That of a chain is 1/T, that of VE, EDM and the like t = 0. Source of 1e-5: Song et al. 2021, appendix C.
    """
    if min_t:
        return min_t
    if config.process.num_steps:
        return 1 / config.process.num_steps
    if config.schedule.name in LEARNED_SCHEDULES:
        return 0.0
    return 0.0 if np.isfinite(in_float64(path(None), np.zeros(1))[1]).all() else 1e-5


def init_schedule(config: ConfigDict, key: Array) -> Any:
    """The parameters of a schedule before training; None for a fixed one."""
    if config.schedule.name not in LEARNED_SCHEDULES:
        return None
    return _scheduled(config).init(jax.random.fold_in(key, 1))
