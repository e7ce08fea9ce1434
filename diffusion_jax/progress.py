"""Progress of long work: a bar on a terminal, log lines elsewhere.

with progress.track("samples", total=2000) as report:
    for done in (500, 1000, 1500, 2000):
        ...
        report(done)

Both need logging at level INFO for "diffusion_jax", which `show` sets; otherwise nothing is shown. The rate and the
time left are those since the first report, whose work includes compilation. A report may hold values to show,
`report(done, loss=0.5)`.
"""

import contextlib
import io
import logging
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger(__name__)

SECONDS = 10.0
"""Least seconds between two log lines of the same work."""


Report: TypeAlias = Callable[..., None]
"""`report(done, **values)`: show how much of the total is done, and values by name."""


class _Shown(logging.StreamHandler):
    """The handler of `show`."""


def show() -> logging.Handler:
    """Show losses and progress on standard error, as the command line does.

    Only this package is shown. Returns the handler. A second call changes nothing. Without it, Python shows warnings
    only; programs that set up `logging` themselves need the level INFO for the logger "diffusion_jax" instead.
    """
    package = logging.getLogger("diffusion_jax")
    if found := [handler for handler in package.handlers if isinstance(handler, _Shown)]:
        return found[0]
    handler = _Shown(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    package.propagate = False
    return handler


@contextlib.contextmanager
def track(name: str, total: int, initial: int = 0, seconds: float = SECONDS) -> Iterator[Report]:
    """Yield `report(done, **values)`, which shows progress towards `total`, rate and time left.

    initial: what an earlier process has done. seconds: least time between two log lines if standard error is no
    terminal; 0: a line for every report. The last line follows when the work ends. Work that is complete with its first
    report is not logged, unless seconds is 0.
    """
    terminal = sys.stderr.isatty()
    loggers = [logger for logger in _reached(log) if any(map(_on_terminal, logger.handlers))] if terminal else []
    options: dict[str, Any] = {
        "desc": name,
        "total": total,
        "initial": initial,
        "disable": not log.isEnabledFor(logging.INFO),
    }
    with contextlib.ExitStack() as stack:
        if terminal:
            bar: tqdm = stack.enter_context(tqdm(**options, dynamic_ncols=True, leave=False))
        else:
            bar = stack.enter_context(_LogLines(**options, file=io.StringIO(), mininterval=seconds, miniters=1))
        stack.enter_context(logging_redirect_tqdm(loggers))
        first = True

        def report(done: int, /, **values: float) -> None:
            nonlocal first
            if bar.disable:
                return
            if values:
                bar.set_postfix({name: _short(value) for name, value in values.items()}, refresh=False)
            if first:
                bar.initial = bar.n = bar.last_print_n = done
                bar.unpause()  # the time is measured from here
                bar.logged, first = (done, None) if seconds else (), False
            bar.update(done - bar.n)
            if terminal or not seconds:
                bar.refresh()

        yield report


@contextlib.contextmanager
def nothing() -> Iterator[Report]:
    """Return a report that shows nothing."""
    yield lambda done, /, **values: None


def _reached(logger: logging.Logger) -> Iterator[logging.Logger]:
    """Return the loggers whose handlers a record reaches."""
    place: logging.Logger | None = logger
    while place is not None:
        yield place
        place = place.parent if place.propagate else None


def _on_terminal(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr)


class _LogLines(tqdm):
    """A tqdm that writes a log line where the bar would be drawn."""

    monitor_interval = 0  # no thread
    logged: tuple[Any, ...] | None = None
    """The last report that was logged; None: there was no report yet."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Log the last report, unless it has been logged."""
        state, report = self.format_dict, (self.n, self.postfix)
        made = self.n - self.initial
        if self.logged is None or report == self.logged:
            return
        self.logged = report
        parts = [f"{self.n:,} of {self.total:,} ({math.floor(100 * self.n / max(1, self.total))} %)"]
        if self.postfix:
            parts.append(self.postfix)
        if made:
            rate = state["rate"] or made / max(state["elapsed"], 1e-9)
            parts.append(f"{per_second(rate)}/s")
            if self.n < self.total:
                parts.append(f"{duration((self.total - self.n) / rate)} left")
        log.info("%s: %s", self.desc, ", ".join(parts))


def per_second(rate: float) -> str:
    """Return a rate as text: a whole number from 10 on, two digits below."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _short(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Return a length of time as text, in its two largest units, e.g. "3 min 20 s"."""
    if not math.isfinite(seconds):
        return "unknown time"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
