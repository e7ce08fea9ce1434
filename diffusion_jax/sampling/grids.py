"""Time grids of samplers: falling times from 1 to 0.

In continuous time sampling may stop at the time `end`. A grid is a function that returns times, float64 [num_steps +
1]. Its signature names its inputs: `num_steps`, and

    end          the last time in continuous time, by default 0
    chain_steps  the number T of steps of a chain, 0 for continuous time: the times are multiples of 1/T
    schedule     the noise schedule, which grids in logsnr or in sigma/alpha invert by bisection

All other arguments are options. `make` calls a grid with the arguments that it takes.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffusion_jax.process.base import Schedule, in_float64, level, time_of


def uniform(num_steps: int, chain_steps: int = 0, end: float = 0.0) -> np.ndarray:
    """Times evenly spaced in t.

    For a chain, levels k/T, as evenly spaced as integers allow. Raises ValueError if num_steps < 1, or of a chain if it
    has fewer steps or no level at `end`.
    """
    if num_steps < 1:
        raise ValueError(f"sampler.num_steps must be at least 1, got {num_steps}")
    if not chain_steps:
        return np.linspace(1.0, end, num_steps + 1)
    last = _last_level(chain_steps, end)
    if num_steps > chain_steps - last:
        raise ValueError(f"sampler.num_steps={num_steps}, but the chain has only {chain_steps - last} steps; use fewer")
    return np.round(np.linspace(chain_steps, last, num_steps + 1)) / chain_steps


def quadratic(num_steps: int, end: float = 0.0) -> np.ndarray:
    """Times evenly spaced in sqrt(t), denser near the data. Reference: Song et al. 2021 (DDIM), appendix D.2."""
    return _with_ends(np.linspace(1.0, end**0.5, num_steps + 1) ** 2, end)


def logsnr(schedule: Schedule, num_steps: int, end: float = 0.0) -> np.ndarray:
    """Times evenly spaced in logsnr. Reference: Lu et al. 2022 (DPM-Solver), section 3.4."""
    first, last = _logsnr_at_ends(schedule, end, "logsnr")
    return _with_ends(_times(schedule, np.linspace(first, last, num_steps + 1)), end)


def karras(schedule: Schedule, num_steps: int, end: float = 0.0, rho: float = 7.0) -> np.ndarray:
    """Times evenly spaced in (sigma/alpha)^(1/rho). Reference: Karras et al. 2022, eq. 5.

    Raises ValueError unless rho > 0.
    """
    if not rho > 0:
        raise ValueError(f"sampler.karras.rho={rho} must be above 0; Karras et al. use 7")
    high, low = (np.exp(-value / (2 * rho)) for value in _logsnr_at_ends(schedule, end, "karras"))
    return _with_ends(_times(schedule, -2 * rho * np.log(np.linspace(high, low, num_steps + 1))), end)


def inclusive(num_steps: int, chain_steps: int) -> np.ndarray:
    """Levels of a chain evenly spaced from the last to the first, then 0.

    Reference: Nichol and Dhariwal 2021, section 4 (of 1000, 10: k - 1 = 999, 888, …, 111, 0). Raises ValueError as
    `uniform` does.
    """
    uniform(num_steps, chain_steps)
    return chosen_levels(tuple(np.round(np.linspace(chain_steps, 1, num_steps)).astype(int)), chain_steps)


def strided(num_steps: int, chain_steps: int) -> np.ndarray:
    """Every (chain_steps // num_steps)-th level of a chain from the first on, then 0.

    The last levels are left out.

    Reference: Song et al. 2021 (DDIM), appendix D (of 1000, 50: k - 1 = 980, …, 20, 0). Raises ValueError as `uniform`
    does, and where more than a fifth of the levels would be left out, as of 1000 with 400.
    """
    uniform(num_steps, chain_steps)
    stride = chain_steps // num_steps
    levels = 1 + stride * np.arange(num_steps)
    if chain_steps - levels[-1] > max(stride, chain_steps / 5):
        fewer, more = chain_steps // (stride + 1), chain_steps // stride
        raise ValueError(
            f"sampler.num_steps={num_steps}: with sampler.grid='strided' sampling would start at level {levels[-1]} of "
            f"{chain_steps}, where x_t is not yet noise. Use {fewer} or {more} steps, or grid=uniform"
        )
    return chosen_levels(tuple(levels), chain_steps)


def to_first(num_steps: int, chain_steps: int) -> np.ndarray:
    """Levels of a chain from the last to the first, without the step to 0.

    At most T - 1 steps.

    Reference: the public code of Sohl-Dickstein et al. 2015. Raises ValueError as `uniform` does, and for a chain of
    one step.
    """
    uniform(num_steps, chain_steps)
    if chain_steps < 2:
        raise ValueError(f"sampler.grid='to_first' needs a chain of at least 2 steps; process.num_steps={chain_steps}")
    return np.round(np.linspace(chain_steps, 1, min(num_steps, chain_steps - 1) + 1)) / chain_steps


GRIDS: dict[str, Callable[..., np.ndarray]] = {
    "uniform": uniform,
    "quadratic": quadratic,
    "logsnr": logsnr,
    "karras": karras,
    "inclusive": inclusive,
    "strided": strided,
    "to_first": to_first,
}
"""Time grids by name."""


def make(
    grid: Callable[..., np.ndarray],
    num_steps: int,
    *,
    chain_steps: int = 0,
    schedule: Schedule | None = None,
    end: float = 0.0,
    **options: Any,
) -> np.ndarray:
    """Return the times of a grid, called with the arguments that its signature names.

    In a chain, a grid that takes no `chain_steps` goes down to the first level 1/T, where there is still noise, and
    the last step goes from there to 0, unless `end` is another time. Raises ValueError if a grid needs a chain or a
    schedule and there is none, or has its own end.
    """
    takes = inspect.signature(grid).parameters
    if needs_chain(grid) and not chain_steps:
        raise ValueError(f"sampler.grid={grid.__name__!r} needs a chain: set process.num_steps to its number of steps")
    if "schedule" in takes and schedule is None:
        raise ValueError(f"sampler.grid={grid.__name__!r} needs a schedule that is known before training")
    if end and "end" not in takes:
        raise ValueError(f"sampler.min_t={end}: sampler.grid={grid.__name__!r} has its own end; use 0, or another grid")
    provided = {"chain_steps": chain_steps, "schedule": schedule, "end": end}
    to_zero = chain_steps and not end and "chain_steps" not in takes
    if to_zero:
        if num_steps == 1:
            return np.array([1.0, 0.0])
        num_steps, provided["end"] = num_steps - 1, 1 / chain_steps
    times = grid(num_steps=num_steps, **{name: provided[name] for name in provided if name in takes}, **options)
    return np.append(times, 0.0) if to_zero else times


def needs_chain(grid: Callable[..., np.ndarray]) -> bool:
    """Return True for a grid of chains alone: `chain_steps` has no default."""
    chain_steps = inspect.signature(grid).parameters.get("chain_steps")
    return chain_steps is not None and chain_steps.default is inspect.Parameter.empty


def chosen_levels(levels: tuple[int, ...], chain_steps: int, end: float = 0.0) -> np.ndarray:
    """Levels k of a chain, given in any order, sorted; then the level of `end`. Raises ValueError."""
    last = _last_level(chain_steps, end)
    wrong = [int(k) for k in levels if not max(last, 1) <= k <= chain_steps]
    above = [k for k in levels if k != last]
    if wrong or not above or len(set(levels)) < len(levels):
        what = f"{wrong[0]} is not among them" if wrong else "one is given twice" if above else "none is given"
        raise ValueError(f"sampler.levels: the levels of the chain are {max(last, 1)} to {chain_steps}; {what}")
    return np.append(np.sort(above)[::-1], last) / chain_steps


def _last_level(chain_steps: int, end: float) -> int:
    """Return the level k of a chain at the time `end`. Raises ValueError where there is none."""
    if abs(end * chain_steps - round(end * chain_steps)) > 1e-6:
        raise ValueError(f"sampler.min_t={end}: must be a level k/{chain_steps} of the chain")
    return round(end * chain_steps)


def chosen_times(times: Sequence[float], end: float = 0.0, below: bool = False) -> np.ndarray:
    """Times given one by one. Raises ValueError unless they fall from 1 (with `below` from 1 or less) to `end`."""
    given = np.asarray(times, np.float64)
    wrong = ""
    if len(given) < 2 or not (given[0] == 1 or (below and given[0] < 1)) or given[-1] != end:
        wrong = "both ends must be among them"
    elif not np.all(np.diff(given) < 0):
        wrong = "each must be smaller than the one before"
    if wrong:
        shown = ", ".join(f"{t:g}" for t in times)
        raise ValueError(f"sampler.times=({shown}) must be times from 1 down to {end:g}; {wrong}")
    return given


def _times(schedule: Schedule, logsnr: np.ndarray) -> np.ndarray:
    """Return the times at which the schedule has the given logsnr."""
    return in_float64(lambda values: time_of(schedule, values), logsnr)


def _logsnr_at_ends(schedule: Schedule, end: float, name: str) -> tuple[float, float]:
    """Return logsnr at t = 1 and at `end`. Raises ValueError where one is infinite."""
    first, last = in_float64(lambda t: level(schedule, t).logsnr, np.array([1.0, end]))
    if not np.isfinite(last):
        raise ValueError(
            f"sampler.grid={name!r}: the schedule has no noise left at t = {end:g}, where logsnr is infinite; set "
            "sampler.min_t to the last time of the grid, 1e-3 for example"
        )
    if not np.isfinite(first):
        raise ValueError(
            f"sampler.grid={name!r}: nothing of x0 is left at t = 1, where logsnr is infinite; use uniform or quadratic"
        )
    return float(first), float(last)


def _with_ends(times: np.ndarray, end: float) -> np.ndarray:
    """Return the same times with both ends exact."""
    return np.concatenate([[1.0], times[1:-1], [end]])
