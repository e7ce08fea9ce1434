"""The wiring: what a config may say, and the one line in which it is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import defaults
from diffusion_jax import build
from diffusion_jax.training.describe import describe


def config(**changes):
    c = defaults.variant(defaults.get_config(), "tiny")
    c.data.update(shape=(8, 8, 1), levels=17, classes=10)
    for name, value in changes.items():
        section, _, key = name.rpartition("__")
        node = c
        for part in filter(None, section.split("__")):
            node = node[part]
        with node.unlocked():
            node[key] = value
    return c


REFUSED = [
    ({"schedule__name": "liner"}, r"schedule.name='liner' is not known \(did you mean 'linear'\?\); use one of linear"),
    ({"network__name": "resnet"}, r"network.name='resnet' is not known"),
    ({"prediction__target": "epsilon"}, r"prediction.target='epsilon' is not known"),
    ({"prediction__variance": "fixed"}, r"prediction.variance='fixed' is not known"),
    ({"prediction__variance": "learned_range"}, r"loss.name='simple' does not train it; use loss.name=hybrid or vlb"),
    ({"loss__name": "sinple"}, r"loss.name='sinple' is not known \(did you mean 'simple'\?\)"),
    ({"times__name": "unifrom"}, r"times.name='unifrom' is not known \(did you mean 'uniform'\?\)"),
    ({"sampler__name": "ddimm"}, r"sampler.name='ddimm' is not known"),
    (
        {"process__num_steps": 0, "sampler__num_steps": 5},
        r"schedule.name='linear' needs a chain: set process.num_steps",
    ),
    ({"process__num_steps": 0, "schedule__name": "vp", "sampler__num_steps": 5}, r"network.told='step' needs a chain"),
    ({"process__num_steps": 0, "schedule__name": "vp"}, r"sampler.num_steps=0 means as many as the chain has"),
    ({"sampler__num_steps": 9}, r"sampler: num_steps=9, but the chain has only 4"),
    ({"train_steps": 0}, r"train_steps=0 must be at least 1"),
    ({"sampler__tile": 0}, r"sampler.tile=0 must be at least 1"),
    ({"optimizer__learning_rate": -1.0}, r"optimizer.learning_rate=-1.0 must be at least 0"),
    ({"ema__decays": (1.0,)}, r"ema.decays: 1.0 is not a number in \[0, 1\)"),
    ({"schedule__linear__beta_end": 2.0}, r"betas must lie in \(0, 1\]"),
    ({"schedule__name": "harmonic"}, r"nothing of x0 is left at t = 1, .*; use v, x0 or posterior_mean"),
    ({"loss__name": "hybrid"}, r"loss.name='hybrid' trains a learned variance, but prediction.variance='fixed_large'"),
    (
        {
            "loss__name": "vlb",
            "process__num_steps": 0,
            "schedule__name": "vp",
            "network__told": "time",
            "sampler__num_steps": 5,
        },
        r"loss.name='vlb' needs a chain",
    ),
    ({"loss__name": "vlb", "bound__decoder": "bin"}, r"bound.decoder='bin' is not known \(did you mean 'bins'\?\)"),
    ({"loss__name": "vlb", "data__levels": 0}, r"the data have levels=0; use bound.decoder=density"),
    (
        {
            "times__name": "importance",
            "process__num_steps": 0,
            "schedule__name": "vp",
            "network__told": "time",
            "sampler__num_steps": 5,
        },
        r"times.name='importance' keeps losses per step",
    ),
    (
        {"prediction__variance": "learned_diagonal", "loss__name": "vlb", "sampler__num_steps": 2},
        r"is that of single steps of the chain; leave sampler.num_steps=0",
    ),
    ({"sampler__steps": (0, 3)}, r"sampler.steps: the levels of the chain are 1 to 4; 0 is not among them"),
    ({"sampler__steps": ("a",)}, r"sampler.steps=\('a',\): 'a' is not a whole number"),
    (
        {
            "sampler__grid": "strided",
            "process__num_steps": 0,
            "schedule__name": "vp",
            "network__told": "time",
            "sampler__num_steps": 5,
        },
        r"sampler.grid and sampler.steps need a chain",
    ),
    ({"network__unet__multipliers": (1, 2.5)}, r"network.unet.multipliers=\(1, 2.5\): 2.5 is not a whole number"),
    ({"network__conditional": True, "data__classes": 0}, r"network.conditional=True, but the data have no classes"),
    ({"ema__decays": ("a",)}, r"ema.decays: 'a' is not a number"),
    ({"eval__max_examples": 0}, r"eval.max_examples=0 must be at least 1"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        build.build(config(**changes))
    assert "\n" not in str(caught.value)


NOT_FOR_THE_NETWORK = [
    ({"data__shape": (9, 8, 1)}, r"height 9"),
    ({"network__unet__attention": (3,)}, r"attention at height 3 never occurs"),
    ({"network__unet__dtype": "float8"}, r"float8"),
    ({"network__unet__dropout": 1.5}, r"dropout"),
]


@pytest.mark.parametrize(("changes", "message"), NOT_FOR_THE_NETWORK)
def test_the_network_checks_shapes_before_anything_compiles(changes, message):
    c = config(**changes)
    with pytest.raises(ValueError, match=message):
        build.parameters(c, build.build(c).network)


@pytest.mark.parametrize("name", build.SCHEDULES)
def test_every_schedule_builds(name):
    changes = {} if name in build.schedules.CHAINS else {"network__told": "logsnr"}
    if name == "harmonic":
        changes["prediction__target"] = "v"
    if name in build.LEARNED_SCHEDULES:
        changes["loss__name"] = "K"
    c = config(schedule__name=name, **changes)
    params = {"schedule": build.init_schedule(c, jax.random.key(0))}
    for experiment in (build.build(c), build.build(c, params)):
        log_alpha, log_sigma = experiment.schedule(params)(jnp.array([0.5]))
        assert np.isfinite(log_alpha).all() and np.isfinite(log_sigma).all()


def test_a_learned_schedule_is_fixed_only_when_it_is_frozen():
    c = config(schedule__name="learned_betas", loss__name="K")
    params = {"schedule": {"perturbation": np.array([0.5, -0.2, 0.1])}}
    experiment, frozen = build.build(c), build.build(c, params)
    with pytest.raises(ValueError, match=r"schedule.name='learned_betas' is learned, and a fixed grid .*: freeze it"):
        experiment.schedule(None)
    rows, traced = frozen.sampler.rows(None), experiment.sampler.rows(params)
    assert isinstance(rows.x0_scale, np.ndarray) and rows.x0_scale.dtype == np.float64
    np.testing.assert_allclose(traced.x0_scale, rows.x0_scale, rtol=1e-5)
    shift = {"schedule": {"perturbation": np.zeros(3)}}
    assert frozen.sampler.rows(shift) is rows
    assert abs(np.asarray(experiment.sampler.rows(shift).x0_scale) - rows.x0_scale).max() > 0.01


BITS = {"data__levels": 2, "process__name": "binomial", "schedule__name": "harmonic", "loss__name": "K"}
BITS |= {"prediction__target": "x0", "prediction__variance": "fixed_small"}
REFUSED_OF_2015 = [
    (BITS | {"data__levels": 17}, r"process.name='binomial' is for bits, and needs data.levels=2, not 17"),
    (BITS | {"prediction__target": "eps"}, r"needs prediction.target=x0, not eps"),
    (BITS | {"schedule__name": "vp"}, r"with schedule.name='vp': bits take the rates of a fixed chain"),
    (BITS | {"schedule__name": "learned_betas"}, r"no gradient goes through a drawn bit"),
    (BITS | {"loss__name": "simple"}, r"with loss.name='simple': use loss.name=K or vlb"),
    (BITS | {"process__num_steps": 1}, r"loss.name='K' has T - 1 terms: process.num_steps=1 must be at least 2"),
    (
        {"schedule__name": "learned_betas", "process__num_steps": 1},
        r"process.num_steps=1: a chain whose rates are learned needs at least 2 steps",
    ),
    ({"schedule__name": "learned_gamma"}, r"loss.name='simple' does not train it; use loss.name=K or vlb"),
    (
        {"prediction__target": "dpm2015_paper", "prediction__variance": "dpm2015_code", "loss__name": "K"},
        r"set prediction.variance=dpm2015_paper, not dpm2015_code",
    ),
    ({"sampler__grid": "to_first", "process__num_steps": 1}, r"grid='to_first' needs a chain of at least 2 steps"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED_OF_2015)
def test_what_2015_does_not_allow_is_refused_in_one_line(changes, message):
    test_refused_in_one_line(changes, message)


@pytest.mark.parametrize("target", build.TARGETS)
@pytest.mark.parametrize("weight", ["simple", "min_snr", "K"])
def test_every_target_gives_a_finite_loss_from_data_at_rest(target, weight):
    if target == "dpm2015_paper" and weight != "K":
        return
    variance = target if target.startswith("dpm2015") and weight == "K" else "fixed_large"
    choices = {"prediction__variance": variance, "prediction__target": target, "loss__name": weight}
    c = config(**choices, network__name="mlp", data__shape=(5,))
    experiment = build.build(c)
    params = build.init(c, experiment.network, jax.random.key(0))
    rows = {"x0": jnp.full((4, 5), 16, jnp.uint8), "label": jnp.zeros(4, jnp.int32), "index": jnp.arange(4)}
    loss, _ = experiment.loss(params, rows, jnp.arange(1, 5) / 4, jax.random.split(jax.random.key(1), 4))
    assert loss.shape == (4,) and np.isfinite(loss).all()


def test_conditional_network_is_told_the_label():
    c = config(network__name="mlp", network__conditional=True, data__shape=(5,))
    experiment = build.build(c)
    params = build.init(c, experiment.network, jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), params)
    at = jax.tree.map(lambda x: jnp.full(2, x), build.schedules.linear(4)(jnp.array(0.5)))
    level = build.Level(jnp.full(2, 0.5), *at)
    found = experiment.predict(params, jnp.ones((2, 5)), level, jnp.array([1, 2]), None)
    assert float(jnp.abs(found.eps[0] - found.eps[1]).max()) > 1e-4


def test_describe_counts_without_compiling():
    text, figures = describe(config())
    assert figures["parameters"] == sum(
        x.size for x in jax.tree.leaves(build.parameters(config(), build.build(config()).network))
    )
    assert figures["train_step_flops"] > 0 and figures["activation_bytes"] > 0
    # parameters, one average and Adam's two moments, all float32, and a few counters
    assert 0 <= figures["state_bytes"] - 4 * 4 * figures["parameters"] < 100
    assert figures["schedule_ends"]["t=0"] == {"alpha": 1.0, "sigma": 0.0}
    for word in ("parameters", "GFLOP", "arithmetic", "schedule", "devices"):
        assert word in text
    _, compiled = describe(config(), compile=True)
    assert compiled["compiled_bytes"] > figures["state_bytes"]
