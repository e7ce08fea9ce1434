"""A finished tiny run, and `command`, which carries out a command line in this process."""

import json
import pathlib
from typing import NamedTuple

import numpy as np
import pytest
import saved_models

from diffusion_jax import config as configs
from diffusion_jax import main
from diffusion_jax.experiment import sources, wiring
from diffusion_jax.interop import exchange


class Done(NamedTuple):
    """Result of a command."""

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


@pytest.fixture(scope="session")
def untrained():
    """`untrained(path, **data)`: a run of digits:tiny at step 0, with these values in config.data; not compiled."""
    return make_untrained


def make_untrained(path, **data):
    config = configs.load("digits:tiny")
    config.data.update(data)
    config.ema.decays = (0.9,)
    config.eval.update(every=0, svm=False, num_samples=0)
    config = sources.resolve(config, sources.source(config, "train"))
    experiment = wiring.build(config)
    net = saved_models.drawn_params(experiment.network, tuple(config.data.shape))
    exchange.start(str(path), config, experiment, net, net)
    return config


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
