"""Progress of long work: a bar on a terminal, a log line now and then elsewhere.

with progress.track("samples", total=2000) as report:
    for done in (500, 1000, 1500, 2000):
        ...
        report(done)

Both need logging at level INFO for "diffusion_jax", as the command line sets it; otherwise nothing is shown. The rate
and the time left are those since the first report, whose work includes compilation.
"""

import contextlib
import io
import logging
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger(__name__)

SECONDS = 10.0
"""Between two log lines of the same work, at least."""
Report = Callable[[int], None]
"""`report(done)`: how much of the total is done."""


@contextlib.contextmanager
def track(name: str, total: int, initial: int = 0, seconds: float = SECONDS) -> Iterator[Report]:
    """Return `report(done)`, which shows the progress of `name` towards `total`, and its rate and time left.

    initial: what an earlier process has done already. seconds: between two log lines, where standard error is no
    terminal; the last line follows when everything is done. Work that one report completes is not logged.
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

        def report(done: int) -> None:
            nonlocal first
            if first:
                bar.initial = bar.n = bar.last_print_n = done
                first = False
                bar.unpause()  # the time is measured from here
                bar.refresh()
            bar.update(done - bar.n)

        yield report


@contextlib.contextmanager
def nothing() -> Iterator[Report]:
    """Return a report that shows nothing."""
    yield lambda done: None


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

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Log what has been done, unless that is nothing or is logged already."""
        if self.n in (self.initial, getattr(self, "logged", None)):
            return
        self.logged = self.n
        state = self.format_dict
        rate = state["rate"] or (self.n - self.initial) / max(state["elapsed"], 1e-9)
        left = "" if self.n >= self.total else f", {duration((self.total - self.n) / rate)} left"
        log.info("%s: %s of %s, %s/s%s", self.desc, f"{self.n:,}", f"{self.total:,}", per_second(rate), left)


def per_second(rate: float) -> str:
    """A rate: a whole number from 10 on, two digits below."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def duration(seconds: float) -> str:
    """A length of time in its two largest units, e.g. "3 min 20 s"."""
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
