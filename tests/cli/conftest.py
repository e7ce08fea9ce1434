"""A finished tiny run, and `command`, which carries out a command line in this process."""

import json
import pathlib
from typing import NamedTuple

import numpy as np
import pytest

from diffusion_jax import main


class Done(NamedTuple):
    """What a command did."""

    code: int
    out: list[str]
    err: list[str]

    @property
    def results(self):
        return json.loads(self.out[-1])


@pytest.fixture
def command(capsys):
    """`command("sample", …)`: exit code, and lines of standard output and error."""

    def run(*words):
        code = main.run(["main", *map(str, words)])
        captured = capsys.readouterr()
        return Done(code, captured.out.splitlines(), captured.err.splitlines())

    return run


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    """A finished tiny run with two averages and two checkpoints."""
    path = tmp_path_factory.mktemp("run")
    flags = ["--config.report.tensorboard=False", "--config.ema.decays=(0.9,0.5)", "--config.eval.every=1"]
    flags += ["--config.report.samples_every=0"]
    assert main.run(["main", "train", "--config=digits:tiny", f"--workdir={path}", *flags]) == 0
    return path


@pytest.fixture
def draw(command, workdir, tmp_path):
    """`draw(*flags)`: results, samples and seeds of `main sample`."""

    def run(*flags, workdir=workdir):
        out = pathlib.Path(tmp_path, "drawn.npz")
        done = command("sample", f"--workdir={workdir}", f"--out={out}", *flags)
        assert done.code == 0, done.err
        with np.load(out, allow_pickle=False) as file:
            return done.results, file["samples"], file["seeds"]

    return run
