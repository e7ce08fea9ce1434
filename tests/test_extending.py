"""Parts of one's own, as `module:function` in a config: nothing of the package is edited for them."""

import json
import sys
import textwrap

import numpy as np
import pytest

from diffusion_jax import config as configs
from diffusion_jax import main
from diffusion_jax.experiment import sources, wiring

MINE = """
    import flax.linen as nn
    import jax.numpy as jnp
    import numpy as np

    from diffusion_jax.data.source import from_arrays
    from diffusion_jax.sampling.registry import SAMPLERS


    def straight(num_steps: int, power: float = 1.0):
        '''A variance-preserving chain, alpha² = 1 - t^power (1 - 1e-4).'''

        def schedule(t):
            alpha2 = 1 - t**power * (1 - 1e-4)
            return 0.5 * jnp.log(alpha2), 0.5 * jnp.log1p(-alpha2)

        return schedule


    def sampler(eta: float = 0.5):
        return SAMPLERS["ddim"](eta)


    class Net(nn.Module):
        width: int = 4

        @nn.compact
        def __call__(self, x, time):
            return nn.Dense(x.shape[-1])(nn.silu(nn.Dense(self.width)(x) + time[:, None] / 10))


    def blobs(split: str, size: int = 32, spread: float = 0.1):
        rng = np.random.default_rng({"train": 0, "heldout": 1}[split])
        x = rng.choice([-0.5, 0.5], (size, 2)) + spread * rng.normal(size=(size, 2))
        return from_arrays(f"blobs/{split}", x.astype(np.float32), None, levels=0, classes=0)


    def root_snr(power: float = 0.5):
        '''Weights of the squared error of eps, from the level and the coefficients of the target.'''
        return lambda level, target: jnp.exp(power * level.logsnr)


    def two_halves(num_steps: int, end: float = 0.0, middle: float = 0.5):
        return np.linspace(1.0, end, num_steps + 1)


    def double(num_steps: int):
        return lambda schedule, level: (jnp.zeros_like(level.t), jnp.full_like(level.t, 2.0))


    def means(x):
        return np.asarray(x, np.float64).reshape(len(x), -1)[:, :2]
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A module of the user's, on the path."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "my_parts.py").write_text(textwrap.dedent(MINE))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield "my_parts"
    sys.modules.pop("my_parts", None)


FLAGS = [
    *("data.name=my_parts:blobs", "data.options.size=24"),
    *("network.name=my_parts:Net", "network.options.width=6"),
    *("schedule.name=my_parts:straight", "schedule.options.power=0.5", "process.num_steps=10"),
    *("loss.name=my_parts:root_snr", "loss.options.power=0.25"),
    *("prediction.target=my_parts:double", "sampler.name=my_parts:sampler", "sampler.options.eta=0.25"),
    *(
        "sampler.grid=my_parts:two_halves",
        "sampler.grid_options.middle=0.4",
        "sampler.num_steps=5",
        "sampler.clip_x0=false",
    ),
    *("bound.decoder=density", "bound.clip_x0=false"),
]


def test_every_part_of_a_run_may_be_ones_own(mine, tmp_path, capsys):
    workdir = tmp_path / "run"
    argv = ["main", "train", "--config=toy2d:tiny", f"--workdir={workdir}", *(f"--config.{flag}" for flag in FLAGS)]
    assert main.run(argv) == 0
    assert np.isfinite(json.loads(capsys.readouterr().out.splitlines()[-1])["heldout_loss"])
    assert main.run(["main", "sample", f"--workdir={workdir}", "--num_samples=3", f"--out={tmp_path / 'x.npz'}"]) == 0
    with np.load(tmp_path / "x.npz") as file:
        assert file["samples"].shape == (3, 2) and np.isfinite(file["samples"]).all()
    metrics = ["--metrics=fid", "--features=my_parts:means", "--num_samples=8", "--allow=few,sizes", "--bootstrap=0"]
    assert main.run(["main", "evaluate", f"--workdir={workdir}", *metrics]) == 0
    assert "fd_means_8" in json.loads(capsys.readouterr().out.splitlines()[-1])


def test_options_reach_the_part(mine):
    c = configs.load("toy2d:tiny")
    configs.override_all(c, dict(flag.split("=", 1) for flag in FLAGS))
    train = sources.source(c, "train")
    assert train.size == 24
    experiment = wiring.build(sources.resolve(c, train))
    assert experiment.network.module.width == 6


BAD = [
    ("network.name", "my_parts:Nett", "my_parts"),
    ("network.name", "my_part:Net", "my_part:Net"),
    ("schedule.name", "my_parts:", "schedule.name"),
    ("network.options.widht", "6", "network.options.widht"),
    ("network.options.width", "six", "network.options.width"),
]


@pytest.mark.parametrize(("key", "text", "named"), BAD)
def test_what_does_not_fit_is_one_line(mine, key, text, named):
    c = configs.load("toy2d:tiny")
    with pytest.raises(ValueError) as caught:
        configs.override_all(c, {"network.name": "my_parts:Net", key: text})
        wiring.build(sources.resolve(c, sources.source(c, "train")))
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_a_part_that_is_no_factory_of_its_kind(mine):
    c = configs.load("toy2d:tiny")
    configs.override_all(c, {"schedule.name": "my_parts:means"})
    with pytest.raises(ValueError, match=r"schedule\.name"):
        wiring.build(sources.resolve(c, sources.source(c, "train")))
