"""Progress: a bar on a terminal, log lines elsewhere, and nothing below the level INFO."""

import io
import logging
import math
import sys

import pytest

import diffusion_jax as dj
from diffusion_jax import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def lines(caplog, monkeypatch):
    """The log lines of the package, whatever handlers an earlier test has set."""
    logger = logging.getLogger("diffusion_jax")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level(logging.INFO, "diffusion_jax"):
        yield lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by `clock[0] = seconds`."""
    now = [0.0]
    original = progress._LogLines.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self._time = lambda: now[0]
        self.start_t = self.last_print_t = now[0]

    monkeypatch.setattr(progress._LogLines, "__init__", init)
    return now


def test_lines_hold_the_rate_and_the_time_left_since_the_first_report(lines, clock):
    with progress.track("samples", 2000, seconds=10) as report:
        for seconds, done in ((100, 500), (102, 600), (125, 1000), (130, 1100), (150, 1500), (151, 2000)):
            clock[0] = seconds
            report(done)
    assert len(lines()) == 3  # at 125, at 150 and at the end
    assert "1,000 of 2,000" in lines()[0] and progress.duration(1000 / (500 / 25)) in lines()[0]
    assert "1,500 of 2,000" in lines()[1] and "2,000 of 2,000" in lines()[2] and "left" not in lines()[2]


def test_with_zero_seconds_every_report_is_a_line_with_its_values(lines, clock):
    with progress.track("training", 100, initial=40, seconds=0) as report:
        for seconds, done, loss in ((5, 41, 1.0), (15, 51, 0.5), (30, 60, math.nan), (40, 50, 0.25)):
            clock[0] = seconds
            report(done, loss=loss, **{"images/s": 12_345})
    assert len(lines()) == 4
    for line, words in zip(lines(), ("41 of 100 (41 %)", "loss=0.5", "loss=nan", "50 of 100"), strict=True):
        assert words in line and "12,345" in line
    assert "left" not in lines()[0] and "49 s left" in lines()[1]


def test_work_of_one_report_is_not_logged(lines):
    with progress.track("samples", 64) as report:
        report(64)
    assert lines() == []


def test_bar_and_log_lines_do_not_mix_on_a_terminal(monkeypatch, caplog):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    logger = logging.getLogger("diffusion_jax")
    handler = logging.StreamHandler(terminal)
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "propagate", False)
    caplog.set_level(logging.INFO, "diffusion_jax")
    with progress.track("samples", 10) as report:
        report(2)
        logging.getLogger("diffusion_jax.other").info("a line")
        report(10)
    assert logger.handlers == [handler]
    written = terminal.getvalue()
    assert "samples" in written and "2/10" in written
    before, line, _ = written.partition("a line\n")
    assert line and before.endswith("\r")  # the bar is cleared first


def test_nothing_is_shown_below_the_level_info(monkeypatch, caplog):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    caplog.set_level(logging.WARNING, "diffusion_jax")
    with progress.track("samples", 10) as report:
        report(2)
        report(10)
    assert terminal.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 0 min"),
        (4330, "1 h 12 min"),
        (183_600, "2 d 3 h"),
        (-1, "0 s"),
        (math.inf, "unknown time"),
        (math.nan, "unknown time"),
    ],
)
def test_duration(seconds, text):
    assert progress.duration(seconds) == text


def test_progress_is_shown_once_on_standard_error(monkeypatch, own_logging):
    logging.getLogger("diffusion_jax.somewhere").info("before")
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    assert dj.show_progress() is dj.show_progress()
    logging.getLogger("diffusion_jax.somewhere").info("a line")
    logging.getLogger("elsewhere").info("another line")
    assert [line.split(" ", 1)[1] for line in stream.getvalue().splitlines()] == ["a line"]
    assert own_logging.handlers == [dj.show_progress()]
