"""Parts of one's own, as `module:function` in a config: nothing of the package is edited for them."""

import json
import sys
import textwrap

import numpy as np
import pytest

from diffusion_jax import config as configs
from diffusion_jax import main
from diffusion_jax.declarations import declare
from diffusion_jax.experiment import sources, wiring

MINE = """
    import flax.linen as nn
    import jax.numpy as jnp
    import numpy as np

    from diffusion_jax.data.source import from_arrays
    from diffusion_jax.declarations import declare
    from diffusion_jax.objective import losses, reverse, time_sampling
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


    @declare(chain=True)
    def weight_of_a_chain():
        return lambda level, target: jnp.ones_like(level.t)


    @declare(chain=True, trains_variance=True, trains_schedule=True)
    def own_bound(factor: float = 1.0, *, setting):
        return {"own": (factor, setting.vlb())}


    @declare(classifier=True)
    def own_cross_entropy(log_probs, process, schedule):
        return losses.cross_entropy(log_probs, process, schedule)


    @declare(continuous=True)
    def continuous_weight():
        return lambda level, target: jnp.ones_like(level.t)


    @declare(chain=True)
    def target_of_a_chain():
        return lambda schedule, level: (jnp.zeros_like(level.t), jnp.ones_like(level.t))


    @declare(preserves_variance=True, gaussian=True, clips=False)
    def target_of_vp():
        return lambda schedule, level: (-level.sigma, level.alpha)


    @declare(head=True)
    def own_variance(process):
        return reverse.learned_range(process)


    @declare(weighs_times=True)
    def late_times(min_t: float = 0.0):
        return time_sampling.uniform(0, 0.5)


    class Logits(nn.Module):
        out_channels: int

        @nn.compact
        def __call__(self, x, time):
            return nn.Dense(self.out_channels)(x.reshape(len(x), -1))


    @declare(classifier=True)
    class DeclaredLogits(Logits):
        pass


    def exploding(num_steps: int):
        return lambda t: (jnp.zeros_like(t), jnp.log(t))


    def count_ones(x):
        return {"ones": float(x.mean())}


    @declare(counts=count_ones)
    def counted(split: str):
        return from_arrays(split, np.ones((20, 5), np.uint8), None, levels=2, classes=0)


    def half(predict, scale: float):
        return predict


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


def test_every_part_of_a_run_may_be_imported(mine, tmp_path, capsys):
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


ME = "my_parts:"
CONTINUOUS = {"process.num_steps": 0, "schedule.name": "vp", "network.conditioning": "time", "sampler.num_steps": 5}
BITS = {
    "data.name": "heartbeat",
    "process.name": "binomial",
    "network.name": "mlp",
    "prediction.target": "x0",
    "prediction.variance": "fixed_small",
    "loss.name": "K",
}
CLASSIFIER = {"loss.name": f"{ME}own_cross_entropy", "report.samples_every": 0}
DECLARED = [
    ({"loss.name": f"{ME}weight_of_a_chain"}, ""),
    ({"loss.name": f"{ME}weight_of_a_chain", **CONTINUOUS}, "loss.name"),
    ({"loss.name": f"{ME}continuous_weight"}, "loss.name"),
    ({"loss.name": f"{ME}continuous_weight", **CONTINUOUS, "schedule.name": "ve", "times.min_t": 0.0}, ""),
    (
        {"loss.name": f"{ME}continuous_weight", **CONTINUOUS, "schedule.name": "ve", "times.name": f"{ME}late_times"},
        "times.name",
    ),
    ({"loss.name": f"{ME}own_bound", "prediction.variance": "learned_range"}, ""),
    ({"loss.name": f"{ME}own_bound", "schedule.name": "learned_betas"}, ""),
    ({"loss.name": f"{ME}root_snr", "schedule.name": "learned_betas"}, "loss.name"),
    ({"loss.name": f"{ME}root_snr", "prediction.variance": f"{ME}own_variance"}, "prediction.variance"),
    ({"loss.name": "vlb", "prediction.variance": f"{ME}own_variance"}, ""),
    ({"loss.name": "hybrid", "prediction.variance": f"{ME}own_variance"}, ""),
    ({"prediction.target": f"{ME}target_of_a_chain", "sampler.num_steps": 3, "sampler.grid": "quadratic"}, "target"),
    ({"prediction.target": f"{ME}target_of_a_chain"}, ""),
    ({"prediction.target": f"{ME}target_of_a_chain", "schedule.name": "harmonic"}, "prediction.target"),
    ({"prediction.target": f"{ME}target_of_vp", "schedule.name": "harmonic"}, ""),
    ({"prediction.target": f"{ME}target_of_vp", "schedule.name": f"{ME}exploding"}, "prediction.target"),
    ({"prediction.target": "dpm2015_code", "schedule.name": f"{ME}straight"}, ""),
    ({**BITS, "schedule.name": f"{ME}straight"}, ""),
    ({**BITS, "schedule.name": f"{ME}exploding"}, "schedule.name"),
    ({**BITS, "schedule.name": f"{ME}straight", "prediction.target": f"{ME}target_of_vp"}, "prediction.target"),
    ({**BITS, "schedule.name": f"{ME}straight", "loss.name": f"{ME}own_bound"}, ""),
    ({**BITS, "schedule.name": f"{ME}straight", "loss.name": f"{ME}root_snr"}, "loss.name"),
    ({**CLASSIFIER, "network.name": f"{ME}Logits"}, ""),
    ({**CLASSIFIER, "network.name": f"{ME}DeclaredLogits"}, ""),
    ({"network.name": f"{ME}DeclaredLogits"}, "network.name"),
    ({"guidance.name": f"{ME}half", "guidance.scale": 2.0}, ""),
]


@pytest.mark.parametrize(("values", "refused"), DECLARED)
def test_facts_of_imported_parts_are_checked_like_built_in_ones(mine, values, refused):
    c = configs.load("toy2d:tiny")
    configs.override_all(c, {"process.num_steps": "4", "network.conditioning": "step", "bound.decoder": "density"})
    configs.override_all(c, {"bound.clip_x0": "false", "schedule.name": "linear", "sampler.num_steps": "0"})
    configs.override_all(c, {"sampler.name": "ancestral", **{key: str(value) for key, value in values.items()}})
    c = sources.resolve(c, sources.source(c, "train"))
    if not refused:
        wiring.parameters(c, wiring.build(c).network)
        return
    with pytest.raises(ValueError) as caught:
        wiring.build(c)
    assert refused in str(caught.value) and "\n" not in str(caught.value)


def test_a_data_set_declares_its_counts_of_samples(mine):
    c = configs.load("toy2d:tiny")
    assert sources.facts(c).counts is None
    configs.override_all(c, {"data.name": "my_parts:counted"})
    assert sources.facts(c).counts(np.ones(4)) == {"ones": 1.0}
    assert sources.facts(configs.load("dpm2015_heartbeat")).counts is not None


def test_a_misspelt_fact_is_an_error():
    with pytest.raises(ValueError, match="chian"):
        declare(chian=True)


BAD = [
    ("network.name", "my_parts:Nett", "my_parts"),
    ("network.name", "my_part:Net", "my_part:Net"),
    ("schedule.name", "my_parts:", "schedule.name"),
    ("network.options.widht", "6", "network.options.widht"),
    ("network.options.width", "six", "network.options.width"),
]


@pytest.mark.parametrize(("key", "text", "named"), BAD)
def test_bad_options_of_imported_parts_are_one_line(mine, key, text, named):
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
