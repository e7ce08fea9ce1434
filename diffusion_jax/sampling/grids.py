"""Time grids of any schedule by name: num_steps + 1 falling times from 1 to `end`, both always among them.

Grids in logsnr or in sigma/alpha invert the schedule by bisection. Whole steps of a chain: see sampling/loop.py.
"""

from collections.abc import Callable, Sequence

import numpy as np

from diffusion_jax.process.base import Schedule, in_float64, level, time_of

Grid = Callable[..., np.ndarray]
"""`grid(schedule, num_steps, end, **options) -> times float64 [num_steps + 1]`."""


def uniform(schedule: Schedule, num_steps: int, end: float) -> np.ndarray:
    """Evenly spread in t."""
    return np.linspace(1.0, end, num_steps + 1)


def quadratic(schedule: Schedule, num_steps: int, end: float) -> np.ndarray:
    """Evenly spread in sqrt(t), closer to the data. Source: Song et al. 2021 (DDIM), appendix D.2."""
    return _between(np.linspace(1.0, end**0.5, num_steps + 1) ** 2, end)


def logsnr(schedule: Schedule, num_steps: int, end: float) -> np.ndarray:
    """Evenly spread in logsnr. Source: Lu et al. 2022 (DPM-Solver), section 3.4."""
    first, last = _ends(schedule, end, "logsnr")
    return _between(_times(schedule, np.linspace(first, last, num_steps + 1)), end)


def karras(schedule: Schedule, num_steps: int, end: float, rho: float = 7.0) -> np.ndarray:
    """(sigma/alpha)^(1/rho) evenly spread. Source: Karras et al. 2022, eq. 5. Raises ValueError unless rho > 0."""
    if not rho > 0:
        raise ValueError(f"sampler.karras.rho={rho} must be above 0; Karras et al. use 7")
    high, low = (np.exp(-value / (2 * rho)) for value in _ends(schedule, end, "karras"))
    return _between(_times(schedule, -2 * rho * np.log(np.linspace(high, low, num_steps + 1))), end)


GRIDS: dict[str, Grid] = {"uniform": uniform, "quadratic": quadratic, "logsnr": logsnr, "karras": karras}


def chosen(times: Sequence[float], end: float) -> np.ndarray:
    """Times given one by one. Raises ValueError unless they fall from 1 to `end`."""
    found = np.asarray(times, np.float64)
    wrong = ""
    if len(found) < 2 or found[0] != 1 or found[-1] != end:
        wrong = "both ends must be among them"
    elif not np.all(np.diff(found) < 0):
        wrong = "they must fall at every step"
    if wrong:
        shown = ", ".join(f"{t:g}" for t in times)
        raise ValueError(f"sampler.times=({shown}) must be times from 1 down to {end:g}; {wrong}")
    return found


def _times(schedule: Schedule, logsnr: np.ndarray) -> np.ndarray:
    return in_float64(lambda values: time_of(schedule, values), logsnr)


def _ends(schedule: Schedule, end: float, name: str) -> tuple[float, float]:
    """logsnr at t = 1 and at `end`. Raises ValueError where one is infinite."""
    first, last = in_float64(lambda t: level(schedule, t).logsnr, np.array([1.0, end]))
    if not np.isfinite(last):
        raise ValueError(
            f"sampler.grid={name!r}: the schedule has no noise left at t = {end:g}, where logsnr is infinite; set "
            "sampler.min_t to where the grid shall end, 1e-3 for example"
        )
    if not np.isfinite(first):
        raise ValueError(
            f"sampler.grid={name!r}: nothing of x0 is left at t = 1, where logsnr is infinite; use uniform or quadratic"
        )
    return float(first), float(last)


def _between(times: np.ndarray, end: float) -> np.ndarray:
    """The same with both ends exact."""
    return np.concatenate([[1.0], times[1:-1], [end]])
