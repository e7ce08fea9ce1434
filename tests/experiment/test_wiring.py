"""The wiring: what a config may say, and the one line in which it is refused."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import config as configs
from diffusion_jax.declarations import facts_of
from diffusion_jax.experiment import paths, quality, samplers, wiring
from diffusion_jax.objective.prediction import TARGETS
from diffusion_jax.process import base as process_base
from diffusion_jax.process import learned, schedules
from diffusion_jax.process.base import Level
from diffusion_jax.sampling import degradation
from diffusion_jax.sampling.registry import SAMPLERS


def config(**changes):
    c = configs.variant(configs.defaults(), "tiny")
    c.data.update(shape=(8, 8, 1), levels=17, classes=10)
    for name, value in changes.items():
        section, _, key = name.rpartition("__")
        node = c
        for part in filter(None, section.split("__")):
            node = node[part]
        with node.unlocked():
            node[key] = value
    return c


def loss_at_rest(experiment, params, rows, t, keys):
    """The loss of a batch at rest, as the train step computes it."""
    return experiment.loss(params, rows | {"x0": experiment.to_model(rows["x0"], keys)}, t, keys)


CONTINUOUS = {"process__num_steps": 0, "schedule__name": "vp", "network__conditioning": "time", "sampler__num_steps": 5}
LEARNED_DIAGONAL = {"prediction__variance": "learned_diagonal", "loss__name": "vlb"}
AUGMENTED = {"network__name": "ncsnpp", "network__ncsnpp__augment_dims": 9}
REFUSED = [
    ({"schedule__name": "liner"}, "schedule.name"),
    ({"network__name": "resnet"}, "network.name"),
    ({"prediction__target": "epsilon"}, "prediction.target"),
    ({"prediction__variance": "fixed"}, "prediction.variance"),
    ({"prediction__variance": "learned_range"}, "loss.name"),
    ({"loss__name": "sinple"}, "loss.name"),
    ({"times__name": "unifrom"}, "times.name"),
    ({"sampler__name": "ddimm"}, "sampler.name"),
    (
        {"process__num_steps": 0, "sampler__num_steps": 5},
        "schedule.name",
    ),
    (
        {"process__num_steps": 0, "schedule__name": "vp", "sampler__num_steps": 5},
        "network.conditioning",
    ),
    ({"process__num_steps": 0, "schedule__name": "vp", "network__conditioning": "time"}, "sampler.num_steps"),
    ({"sampler__num_steps": 9}, "num_steps"),
    ({"train_steps": 0}, "train_steps"),
    ({"sampler__tile": 0}, "sampler.tile"),
    ({"optimizer__learning_rate": -1.0}, "optimizer.learning_rate"),
    ({"optimizer__learning_rate": float("inf")}, "optimizer.learning_rate"),
    ({"ema__decays": (1.0,)}, "ema.decays"),
    ({"schedule__linear__beta_end": 2.0}, "betas"),
    ({"schedule__name": "harmonic"}, "prediction.target"),
    ({"schedule__name": "harmonic", "prediction__target": "score"}, "prediction.target"),
    ({"loss__name": "hybrid"}, "loss.name"),
    (
        {
            "loss__name": "vlb",
            "process__num_steps": 0,
            "schedule__name": "vp",
            "network__conditioning": "time",
            "sampler__num_steps": 5,
        },
        "loss.name",
    ),
    ({"loss__name": "vlb", "bound__decoder": "bin"}, "bound.decoder"),
    ({"loss__name": "vlb", "data__levels": 0}, "bound.decoder"),
    (
        {
            "times__name": "importance",
            "process__num_steps": 0,
            "schedule__name": "vp",
            "network__conditioning": "time",
            "sampler__num_steps": 5,
        },
        "times.name",
    ),
    (LEARNED_DIAGONAL | {"sampler__num_steps": 2}, "sampler.num_steps"),
    ({"sampler__levels": (0, 3)}, "sampler.levels"),
    ({"sampler__name": "mean_flow"}, "sampler.name"),
    ({"loss__name": "mean_flow"}, "loss.name"),
    ({"data__coupling": "sinkhorn"}, "data.coupling"),
    ({"data__augment": 0.1}, "augment_dims"),
    ({"data__augment": 1.0, **AUGMENTED}, "data.augment"),
    ({"data__augment": 0.1, **AUGMENTED, "network__ncsnpp__augment_dims": 6}, "augment_dims"),
    ({"data__augment": 0.1, **AUGMENTED, "data__flip": True}, "data.flip"),
    ({"data__augment": 0.1, **AUGMENTED, "data__shape": (5,)}, "data.shape"),
    ({"data__augment": 0.1, **AUGMENTED, "loss__name": "mean_flow"}, "loss.name"),
    ({"sampler__levels": ("a",)}, "sampler.levels"),
    ({"sampler__levels": (2,)}, "sampler.num_steps=2"),
    ({"sampler__levels": (2, 1)}, "sampler.levels"),
    (
        {
            "sampler__grid": "strided",
            "process__num_steps": 0,
            "schedule__name": "vp",
            "network__conditioning": "time",
            "sampler__num_steps": 5,
        },
        "sampler.grid",
    ),
    ({"sampler__grid": "karas"}, "sampler.grid"),
    ({"sampler__min_t": 0.1}, "sampler.min_t"),
    ({"sampler__min_t": 0.9}, "sampler.min_t"),
    ({"sampler__min_t": 1.5}, "sampler.min_t"),
    ({"ode__min_t": 2.0}, "ode.min_t"),
    *(
        ({"sampler__grid": "strided", "process__num_steps": 1000, "sampler__num_steps": steps}, "sampler.num_steps")
        for steps in (400, 501)
    ),
    ({"guidance__rescale": 0.5}, "guidance.rescale"),
    ({"guidance__interval_t": (0.2, 0.8)}, "guidance.interval_t"),
    (CONTINUOUS | {"schedule__name": "rectified_flow", "sampler__times": (0.7, 0.35, 0.0)}, "sampler.times"),
    ({"sampler__keep_eps": True, "sampler__clip_x0": False}, "sampler.keep_eps"),
    ({"sampler__keep_eps": True, "prediction__target": "posterior_mean"}, "sampler.keep_eps"),
    ({"sampler__dynamic_threshold": 0.9, "prediction__target": "posterior_mean"}, "sampler.dynamic_threshold"),
    (LEARNED_DIAGONAL | {"sampler__grid": "quadratic"}, "prediction.variance"),
    (LEARNED_DIAGONAL | {"sampler__times": (1.0, 0.7, 0.4, 0.1, 0.0)}, "prediction.variance"),
    (LEARNED_DIAGONAL | {"sampler__levels": (4, 2, 1)}, "prediction.variance"),
    ({"sampler__times": (1.0, 0.2, 0.4, 0.0)}, "sampler.times"),
    ({"sampler__times": (0.9, 0.0)}, ""),
    ({"sampler__name": "ddim", "sampler__ddim__eta": 2.0}, "sampler.ddim.eta"),
    (CONTINUOUS | {"sampler__grid": "logsnr"}, "sampler.min_t"),
    (
        {"prediction__target": "posterior_mean", "sampler__name": "ddim", "sampler__grid": "logsnr"},
        "prediction.target",
    ),
    ({"schedule__name": "ve", "schedule__ve__sigma_min": 0.0}, "schedule.name"),
    (
        {"schedule__name": "edm", "schedule__edm__rho": 0.0},
        "schedule.name",
    ),
    ({"schedule__name": "edm", "schedule__edm__sigma_min": -0.1}, "schedule.name"),
    ({"schedule__name": "vp", "schedule__vp__beta_min": -5.0}, "schedule.name"),
    ({"schedule__name": "linear_logsnr", "schedule__linear_logsnr__gamma_min": 9.0}, ""),
    ({"schedule__name": "warmup", "schedule__warmup__fraction": 2.0}, "schedule.name"),
    (
        {"schedule__name": "geometric", "schedule__geometric__sigma_min": 0.0},
        "schedule.name",
    ),
    (
        {"schedule__name": "geometric", "schedule__geometric__sigma_max": 0.001},
        "schedule.name",
    ),
    ({"schedule__name": "geometric", "process__num_steps": 1}, "process.num_steps"),
    (CONTINUOUS | {"schedule__name": "geometric"}, "schedule.name"),
    (
        {"network__name": "ncsn", "network__conditioning": "logsnr"},
        "network.name",
    ),
    (
        {"network__name": "ncsnv2", "network__conditional": True},
        "network.name",
    ),
    (
        {"network__name": "ncsn", "network__ncsn__dilations": (1, 0.5)},
        "network.ncsn.dilations",
    ),
    (
        {
            "schedule__name": "geometric",
            "prediction__target": "dpm2015_paper",
            "prediction__variance": "dpm2015_paper",
            "loss__name": "K",
        },
        "prediction.target",
    ),
    ({"times__importance__window": 0}, "times.importance.window"),
    ({"times__importance__uniform_share": 5.0}, "times.importance.uniform_share"),
    ({"times__min_t": 3.0}, "times.min_t"),
    ({"optimizer__adam__b2": 2.0}, "optimizer.adam.b2"),
    ({"loss__hybrid__factor": -1.0}, "loss.hybrid.factor"),
    ({"network__unet__multipliers": (1, 2.5)}, "network.unet.multipliers"),
    ({"network__conditional": True, "data__classes": 0}, "network.conditional"),
    ({"network__label_dropout": 0.1}, "network.label_dropout"),
    ({"guidance__name": "clasifier"}, "guidance.name"),
    ({"guidance__scale": 3.0}, "guidance.scale"),
    ({"guidance__name": "classifier"}, "guidance.name"),
    ({"guidance__name": "classifier_free", "guidance__scale": 3.0}, ""),
    ({"network__name": "encoder"}, "network.name"),
    ({"loss__name": "cross_entropy"}, "loss.name"),
    (
        {"loss__name": "cross_entropy", "network__name": "encoder"},
        "loss.name",
    ),
    (
        {"loss__name": "cross_entropy", "network__name": "encoder", "data__classes": 0},
        "data",
    ),
    ({"ema__decays": ("a",)}, "ema.decays"),
    ({"eval__max_examples": 0}, "eval.max_examples"),
    ({"optimizer__adam__weight_decay": -0.1}, "optimizer.adam.weight_decay"),
    ({"loss__reduction": "halfsum"}, "loss.reduction"),
    (
        {"prediction__input_scaling": "unit"},
        "prediction.input_scaling",
    ),
    ({"prediction__sigma_data": 0.0}, "prediction.sigma_data"),
    (
        {"network__name": "ncsnpp", "network__ncsnpp__taps": (1.0, 1.0)},
        "network.ncsnpp.taps",
    ),
    (
        {"network__name": "vdm", "network__vdm__fourier": ("a",)},
        "network.vdm.fourier",
    ),
    ({"times__name": "log_normal"}, "times.name"),
    ({"loss__name": "vdm"}, "loss.name"),
    (
        {**CONTINUOUS, "loss__name": "vdm"},
        "schedule.name",
    ),
    (
        {**CONTINUOUS, "loss__name": "vdm", "schedule__name": "edm", "times__min_t": 0.1},
        "loss.name",
    ),
    (
        {**CONTINUOUS, "loss__name": "vdm", "schedule__name": "edm", "times__name": "log_normal"},
        "loss.name",
    ),
]


@pytest.mark.parametrize(("changes", "key"), REFUSED)
def test_refused_in_one_line_that_names_the_key(changes, key):
    with pytest.raises(ValueError) as caught:
        wiring.build(config(**changes))
    assert key in str(caught.value) and "\n" not in str(caught.value)


def test_a_process_without_a_score_has_ancestral_sampling_only():
    wiring.build(config(**BITS))
    predictor = {"sampler__predictor_corrector__predictor": "ancestral"}
    for name in set(SAMPLERS) - {"ancestral"}:
        with pytest.raises(ValueError, match=r"sampler\.name"):
            wiring.build(config(**BITS, sampler__name=name, **predictor))


MEAN_FLOW = {"process__num_steps": 0, "schedule__name": "rectified_flow", "prediction__target": "velocity"}
MEAN_FLOW |= {"loss__name": "mean_flow", "network__conditioning": "time", "sampler__num_steps": 4}
CALLS = {"ode_heun": 2, "edm": 2, "predictor_corrector": 2, "annealed_langevin": 2}
"""Calls of a step that ends with noise, in the tiny variant; the last one takes 1."""


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ("dopri5", "direct")])
def test_every_sampler_builds_and_its_calls_are_counted(name):
    """One U-Net call a step, or as many as the method has, and never two at the last step; VE has one more, to x0."""
    changes = MEAN_FLOW if name == "mean_flow" else {}
    c = config(network__name="mlp", data__shape=(5,), sampler__name=name, **changes)
    params = wiring.init(c, wiring.build(c).network, jax.random.key(0))
    assert wiring.count_calls(c, params) == 3 * CALLS.get(name, 1) + 1
    if name in ("edm", "unipc"):
        changes = CONTINUOUS | {"schedule__name": "ve", "sampler__grid": "karras", "sampler__name": name}
        c = config(network__name="mlp", data__shape=(5,), **changes)
        assert wiring.count_calls(c, params) == 5 * CALLS.get(name, 1) + 1


def test_grids_of_a_chain_end_at_its_first_level_and_then_without_noise():
    for grid in ("logsnr", "karras", "quadratic"):
        c = config(sampler__grid=grid, sampler__name="dpmpp_2m", process__num_steps=100, sampler__num_steps=7)
        t = wiring.build(c).sampler.coefficients(None)
        np.testing.assert_allclose([t.at.t[0], t.at.t[-1], t.to.t[-1]], [1, 0.01, 0], atol=1e-15)
        assert len(t.at.t) == 7 and np.isneginf(t.to.log_sigma[-1])
    c = config(sampler__times=(1.0, 0.3, 0.0), sampler__num_steps=1)
    np.testing.assert_array_equal(wiring.build(c).sampler.coefficients(None).at.t, [1.0, 0.3])


NOT_FOR_THE_NETWORK = [
    ({"data__shape": (9, 8, 1), "network__unet__multipliers": (1, 2)}, "height"),
    ({"network__unet__attention": (3,)}, "attention"),
    ({"network__unet__dtype": "float8"}, r"float8"),
    ({"network__unet__dropout": 1.5}, r"dropout"),
]


@pytest.mark.parametrize(("changes", "message"), NOT_FOR_THE_NETWORK)
def test_the_network_checks_shapes_before_anything_compiles(changes, message):
    c = config(**changes)
    with pytest.raises(ValueError, match=message):
        wiring.parameters(c, wiring.build(c).network)


@pytest.mark.parametrize("name", paths.SCHEDULES)
def test_every_schedule_builds(name):
    changes = {} if name in schedules.CHAINS else {"network__conditioning": "time"}
    if name in ("harmonic", "rectified_flow", "polynomial"):
        changes["prediction__target"] = "v"
    if name in learned.LEARNED:
        changes["loss__name"] = "K"
    c = config(schedule__name=name, **changes)
    params = {"schedule": paths.initial_schedule_params(c, jax.random.key(0))}
    for experiment in (wiring.build(c), wiring.build(c, params)):
        log_alpha, log_sigma = experiment.schedule(params)(jnp.array([0.5]))
        assert np.isfinite(log_alpha).all() and np.isfinite(log_sigma).all()


def test_a_grid_even_in_logsnr_waits_until_a_learned_schedule_is_frozen():
    c = config(schedule__name="learned_gamma", loss__name="K", sampler__name="ddim", sampler__num_steps=5)
    params = {"schedule": paths.initial_schedule_params(c, jax.random.key(0))}
    c.sampler.grid = "logsnr"
    with pytest.raises(ValueError, match=r"sampler\.grid"):
        wiring.build(c)
    rows = wiring.build(c, params).sampler.coefficients(None)
    logsnr = (rows.at.log_alpha - rows.at.log_sigma)[:5]  # down to the first level of the chain of four, then to t = 0
    assert rows.at.t[0] == 1 and rows.at.t[4] == pytest.approx(0.25)
    np.testing.assert_allclose(np.diff(logsnr, 2), 0, atol=1e-6)


@pytest.mark.parametrize("target", [name for name, make in TARGETS.items() if facts_of(make).chain])
def test_targets_of_a_chain_have_no_meaning_between_levels(target):
    chain = {
        "process__num_steps": 100,
        "sampler__num_steps": 7,
        "prediction__target": target,
        "sampler__clip_x0": False,
    }
    if target == "dpm2015_paper":
        chain |= {"prediction__variance": target, "loss__name": "K"}
    with pytest.raises(ValueError, match=f"prediction.target='{target}'"):
        wiring.build(config(**chain, sampler__grid="quadratic", sampler__name="ddim"))
    with pytest.raises(ValueError, match=r"sampler.levels"):
        wiring.build(config(**chain, sampler__name="edm", sampler__edm__churn=10.0))
    with pytest.raises(ValueError, match=f"prediction.target='{target}'"):
        wiring.build(config(**chain, sampler__name="dopri5"))


@pytest.mark.parametrize(
    "grid, variance", [("uniform", "fixed_large"), ("uniform", "learned_diagonal"), ("quadratic", "fixed_large")]
)
def test_the_default_number_of_steps_is_that_of_the_chain_down_to_min_t(grid, variance):
    c = config(process__num_steps=8, sampler__min_t=0.25, sampler__grid=grid, sampler__denoise=False)
    c.prediction.variance, c.loss.name = variance, "simple" if variance == "fixed_large" else "vlb"
    rows = wiring.build(c).sampler.coefficients(None)
    assert samplers.number_of_steps(c) == len(rows.at.t) == 6
    assert rows.at.t[0] == 1 and rows.to.t[-1] == pytest.approx(0.25)
    c.sampler.num_steps = 7
    if grid == "uniform":
        with pytest.raises(ValueError, match=r"sampler\.num_steps=7"):
            wiring.build(c)


def test_a_learned_schedule_is_fixed_only_when_it_is_frozen():
    c = config(schedule__name="learned_betas", loss__name="K")
    params = {"schedule": {"perturbation": np.array([0.5, -0.2, 0.1])}}
    experiment, frozen = wiring.build(c), wiring.build(c, params)
    assert experiment.schedule.fixed is None and frozen.schedule.fixed is not None
    rows, traced = frozen.sampler.coefficients(None), experiment.sampler.coefficients(params)
    assert isinstance(rows.x0_scale, np.ndarray) and rows.x0_scale.dtype == np.float64
    np.testing.assert_allclose(traced.x0_scale, rows.x0_scale, rtol=1e-5)
    shift = {"schedule": {"perturbation": np.zeros(3)}}
    assert frozen.sampler.coefficients(shift) is rows
    assert abs(np.asarray(experiment.sampler.coefficients(shift).x0_scale) - rows.x0_scale).max() > 0.01


def test_K_ends_one_step_before_t_0_for_any_noise_at_t_0():
    """A schedule with noise at t = 0 has T rows for K as any other, and its first level is 1/T."""
    for name in ("linear", "linear_logsnr"):
        c = config(schedule__name=name, loss__name="K", process__num_steps=4)
        experiment = wiring.build(c)
        rows = paths.K_coefficients(c, experiment.process, experiment.schedule)(None)
        np.testing.assert_allclose(rows.at.t, [1, 0.75, 0.5, 0.25])
        np.testing.assert_allclose(rows.to.t, [0.75, 0.5, 0.25, 0])
    assert np.isfinite(rows.to.log_sigma).all()


BITS = {"data__levels": 2, "process__name": "binomial", "schedule__name": "harmonic", "loss__name": "K"}
BITS |= {"prediction__target": "x0", "prediction__variance": "fixed_small"}
REFUSED_OF_2015 = [
    (BITS | {"data__levels": 17}, "process.name"),
    (BITS | {"prediction__target": "eps"}, "prediction.target"),
    (BITS | {"schedule__name": "ve"}, "schedule.name"),
    (BITS | {"schedule__name": "learned_betas"}, ""),
    (BITS | {"schedule__name": "geometric"}, "schedule.name"),
    (BITS | {"loss__name": "simple"}, "loss.name"),
    (BITS | {"process__num_steps": 1}, "loss.name"),
    (
        {"schedule__name": "learned_betas", "process__num_steps": 1},
        "process.num_steps",
    ),
    ({"schedule__name": "learned_gamma"}, "loss.name"),
    (
        {"prediction__target": "dpm2015_paper", "prediction__variance": "dpm2015_code", "loss__name": "K"},
        "prediction.variance",
    ),
    ({"sampler__grid": "to_first", "process__num_steps": 1}, "to_first"),
]


LEVELS = {"process__name": "categorical", "schedule__name": "harmonic", "loss__name": "vlb"}
LEVELS |= {"prediction__target": "x0", "prediction__variance": "fixed_small"}
MASKED = LEVELS | {"process__num_steps": 0, "schedule__name": "polynomial", "loss__name": "masked"}
MASKED |= {"process__categorical__noise": "absorbing", "network__conditioning": "time", "sampler__num_steps": 4}
REFUSED_OF_LEVELS = [
    (LEVELS | {"data__levels": 0}, "process.name"),
    (LEVELS | {"process__categorical__noise": "gaussian"}, "process.categorical.noise"),
    (LEVELS | {"process__categorical__noise": "absorbing", "schedule__name": "cosine"}, "process.name"),
    (LEVELS | {"prediction__target": "v"}, "prediction.target"),
    (LEVELS | {"loss__name": "simple"}, "loss.name"),
    (LEVELS | {"sampler__name": "ddim"}, "sampler.name"),
    (
        LEVELS
        | {"guidance__name": "classifier_free", "network__conditional": True, "network__label_dropout": 0.1}
        | {"data__classes": 10},
        "guidance.name",
    ),
    (LEVELS | {"data__std": 0.5, "sampler__clip_x0": False, "bound__clip_x0": False}, "data.std"),
    (LEVELS | {"prediction__input_scaling": "unit_variance"}, "prediction.input_scaling"),
    (LEVELS | {"process__categorical__noise": "absorbing", "loss__name": "K"}, "K"),
    (MASKED | {"loss__name": "simple"}, "masked"),
    (MASKED | {"network__conditioning": "logsnr"}, "network.conditioning"),
    (MASKED | {"sampler__denoise": False, "sampler__min_t": 0.1}, "sampler.denoise"),
    (MASKED | {"process__categorical__noise": "uniform"}, "loss.name"),
    (MASKED | {"process__num_steps": 4, "schedule__name": "harmonic"}, "loss.name"),
    (MASKED | {"times__min_t": 0.1}, "loss.name"),
    (MASKED | {"schedule__polynomial__power": 0.0}, "schedule.polynomial.power"),
    ({"loss__name": "masked"}, "loss.name"),
]


@pytest.mark.parametrize(("changes", "key"), REFUSED_OF_LEVELS)
def test_choices_unsuitable_for_levels_are_refused_in_one_line(changes, key):
    test_refused_in_one_line_that_names_the_key(changes, key)


@pytest.mark.slow
@pytest.mark.parametrize("choices", [LEVELS, MASKED], ids=["uniform", "absorbing"])
@pytest.mark.parametrize("shape", [(5,), (4, 4, 2)])
def test_models_of_levels_have_a_loss_and_samples_of_their_levels(choices, shape):
    network = {"network__name": "mlp"} if len(shape) == 1 else {"network__unet__channels": 8}
    c = config(**choices, **network, data__levels=3, data__shape=shape, network__unet__multipliers=(1,))
    experiment = wiring.build(c)
    params = wiring.init(c, experiment.network, jax.random.key(0))
    rows = {"x0": jnp.full((4, *shape), 2, jnp.uint8), "label": jnp.zeros(4, jnp.int32), "index": jnp.arange(4)}
    loss, _ = loss_at_rest(experiment, params, rows, jnp.arange(1, 5) / 4, jax.random.split(jax.random.key(1), 4))
    assert loss.shape == (4,) and np.isfinite(loss).all()
    assert wiring.count_calls(c, params) == 4
    samples = experiment.sampler.sample(params, jnp.arange(3, dtype=jnp.uint32))
    assert samples.shape == (3, *shape) and set(np.unique(samples)) <= {-1.0, 0.0, 1.0}
    prediction = experiment.predict(params, samples, process_base.level(experiment.schedule(params), jnp.full(3, 0.5)))
    assert prediction.log_probs.shape == (3, *shape, 3)
    np.testing.assert_allclose(np.exp(prediction.log_probs).sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize(("changes", "key"), REFUSED_OF_2015)
def test_choices_unsuitable_for_2015_are_refused_in_one_line(changes, key):
    test_refused_in_one_line_that_names_the_key(changes, key)


def zeros(c, guide=None):
    """Parameters that are all 0."""
    shapes = wiring.parameters(c, wiring.build(c, guide=guide).network)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


@pytest.mark.parametrize(("name", "calls"), [("ncsn", 10 * 100), ("ncsnv2", 232 * 5 + 1)])
def test_the_recipes_of_scores_weigh_all_levels_alike_and_visit_them_all(name, calls):
    """sigma²/2 |score + noise/sigma|² (Song and Ermon 2019, eq. 5, 6) of a score that is 0 is D/2 on average."""
    c = configs.load(f"cifar10_{name}")
    assert wiring.count_calls(c, zeros(c)) == calls
    experiment = wiring.build(c, wrap=lambda real: lambda variables, x, *others: jnp.zeros_like(x))
    rows = {"x0": jnp.full((8, 32, 32, 3), 128, jnp.uint8), "label": jnp.zeros(8, jnp.int32), "index": jnp.arange(8)}
    t = jnp.array([1, 1, 2, 2, 5, 5, 10, 10]) / c.process.num_steps
    found, _ = loss_at_rest(experiment, {"net": {}}, rows, t, jax.random.split(jax.random.key(1), 8))
    np.testing.assert_allclose(found, 32 * 32 * 3 / 2, rtol=4.5 * (2 / (32 * 32 * 3)) ** 0.5)


def test_noise_is_learned_where_no_signal_is_left_and_sampled_from_below():
    """A chain with alpha(1) = 0, such as "jsd" of Ho's code: |noise - output|² at t = 1; samples start below t = 1."""
    chain = {"schedule__name": "harmonic", "network__name": "mlp", "data__shape": (5,)}
    c = config(**chain, sampler__levels=(3, 2, 1))
    experiment = wiring.build(c, wrap=lambda real: lambda variables, x, *others: 0 * x)
    rows = {"x0": jnp.full((4, 5), 16, jnp.uint8), "label": jnp.zeros(4, jnp.int32), "index": jnp.arange(4)}
    keys = jax.random.split(jax.random.key(1), 4)
    early, late = (loss_at_rest(experiment, {"net": {}}, rows, jnp.full(4, t), keys)[0] for t in (0.75, 1.0))
    np.testing.assert_allclose(late, early, rtol=1e-5)  # of the same noise
    assert np.isfinite(experiment.sampler.sample({"net": {}}, jnp.arange(2, dtype=jnp.uint32))).all()
    for changes in ({}, {"loss__name": "snr", "sampler__levels": (3, 2, 1)}, {"loss__name": "vlb"}):
        with pytest.raises(ValueError, match=r"prediction\.target") as caught:
            wiring.build(config(**chain, **changes))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("weight", ["simple", "min_snr", "K"])
def test_every_target_gives_a_finite_loss_from_data_at_rest(target, weight):
    if target == "dpm2015_paper" and weight != "K":
        return
    variance = target if target.startswith("dpm2015") and weight == "K" else "fixed_large"
    choices = {"prediction__variance": variance, "prediction__target": target, "loss__name": weight}
    c = config(**choices, network__name="mlp", data__shape=(5,))
    experiment = wiring.build(c)
    params = wiring.init(c, experiment.network, jax.random.key(0))
    rows = {"x0": jnp.full((4, 5), 16, jnp.uint8), "label": jnp.zeros(4, jnp.int32), "index": jnp.arange(4)}
    loss, _ = loss_at_rest(experiment, params, rows, jnp.arange(1, 5) / 4, jax.random.split(jax.random.key(1), 4))
    assert loss.shape == (4,) and np.isfinite(loss).all()


@pytest.mark.parametrize(("target", "clips"), [("eps", True), ("posterior_mean", False)])
def test_x0_is_clipped_in_sampling_and_in_the_bound_unless_it_only_follows_from_the_mean(target, clips):
    x = jnp.linspace(-9, 9, 10).reshape(2, 5)
    guesses = []
    for clip in (True, False):
        c = config(network__name="mlp", data__shape=(5,), prediction__target=target, sampler__clip_x0=clip)
        experiment = wiring.build(c)
        params = wiring.init(c, experiment.network, jax.random.key(0))
        start = jax.tree.map(lambda field: jnp.float32(field[0]), experiment.sampler.coefficients(params).at)
        guesses.append(np.asarray(experiment.sampler.predict_x0(params, x, start)))
        assert samplers.clips_x0(c, c.sampler) == (clip and clips)
        assert samplers.clips_x0(c, c.bound) == clips
    assert np.abs(guesses[1]).max() > 2
    np.testing.assert_array_equal(guesses[0], guesses[1].clip(-1, 1) if clips else guesses[1])


def test_the_bound_of_fewer_steps_needs_a_suitable_variance():
    c = config(prediction__variance="learned_diagonal", loss__name="vlb")
    experiment = wiring.build(c)
    with pytest.raises(ValueError, match=r"prediction\.variance.*bound\.num_steps"):
        paths.chain_coefficients(c, experiment.process, experiment.schedule, 2)


def test_conditional_network_depends_on_the_label():
    c = config(network__name="mlp", network__conditional=True, data__shape=(5,))
    experiment = wiring.build(c)
    params = wiring.init(c, experiment.network, jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), params)
    at = jax.tree.map(lambda x: jnp.full(2, x), schedules.linear(4)(jnp.array(0.5)))
    level = Level(jnp.full(2, 0.5), *at)
    found = experiment.predict(params, jnp.ones((2, 5)), level, jnp.array([1, 2]), None)
    assert float(jnp.abs(found.eps[0] - found.eps[1]).max()) > 1e-4


def test_the_calls_of_a_worse_model_count():
    c = config(network__name="mlp", data__shape=(5,), guidance__name="autoguidance", guidance__scale=2.0)
    worse = config(network__name="mlp", data__shape=(5,), prediction__variance="learned_range", loss__name="hybrid")
    params = zeros(c, worse) | {"guide": zeros(worse)}
    assert wiring.count_calls(c, params, guide=worse) == 2 * 4  # also with more outputs than the model has


CLASSIFIER = {"loss__name": "cross_entropy", "network__name": "mlp", "report__samples_every": 0, "data__shape": (5,)}
GUIDED = {"network__name": "mlp", "data__shape": (5,), "guidance__name": "classifier"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule__name": "cosine"}, "cosine.*linear"),
        ({"schedule__linear__beta_end": 0.1}, "schedule"),
        ({"process__num_steps": 7}, "process"),
        ({"data__classes": 3}, r"data\.classes"),
        ({"loss__name": "simple"}, r"loss\.name"),
    ],
)
def test_a_guide_of_another_process_is_refused(changes, message):
    wiring.build(config(**GUIDED), guide=config(**CLASSIFIER))
    with pytest.raises(ValueError, match=message) as caught:
        wiring.build(config(**GUIDED), guide=config(**CLASSIFIER | changes))
    assert "\n" not in str(caught.value)


def test_a_classifier_learns_the_class_of_noisy_examples():
    """Its loss on data at rest is log(classes) to begin with, and 0 where there is no label."""
    experiment = wiring.build(config(**CLASSIFIER))
    params = wiring.init(config(**CLASSIFIER), experiment.network, jax.random.key(0))
    rows = {"x0": jnp.full((4, 5), 16, jnp.uint8), "label": jnp.array([0, 3, 9, -1]), "index": jnp.arange(4)}
    keys = jax.random.split(jax.random.key(1), 4)
    loss, metrics = loss_at_rest(experiment, params, rows, jnp.arange(1, 5) / 4, keys)
    np.testing.assert_allclose(loss[:3], np.log(10), atol=1e-3)
    assert loss[3] == 0 and metrics["accuracy"].shape == (4,)


CONTINUOUS_LOSSES = [
    {"loss__name": "likelihood"},
    {"loss__name": "edm", "prediction__target": "edm", "prediction__input_scaling": "unit_variance"},
    {"loss__name": "edm", "times__name": "log_normal", "schedule__name": "edm", "network__conditioning": "log_sigma"},
    {"loss__name": "vdm", "schedule__name": "learned_gamma", "bound__decoder": "softmax"},
    {"loss__name": "snr", "loss__reduction": "half_sum", "schedule__name": "ve", "network__conditioning": "log_sigma"},
]


@pytest.mark.parametrize("changes", CONTINUOUS_LOSSES)
def test_continuous_training_gives_a_finite_loss(changes):
    c = config(**CONTINUOUS | {"network__name": "mlp", "data__shape": (5,), "times__min_t": 0.0} | changes)
    experiment = wiring.build(c)
    params = wiring.init(c, experiment.network, jax.random.key(0))
    rows = {"x0": jnp.full((4, 5), 16, jnp.uint8), "label": jnp.zeros(4, jnp.int32), "index": jnp.arange(4)}
    t, _ = experiment.times.sample(None, jax.random.key(2), rows["index"], 4)
    loss, metrics = loss_at_rest(experiment, params, rows, t, jax.random.split(jax.random.key(1), 4))
    assert np.isfinite(loss).all() and np.all(loss > 0) and np.all((t >= 0) & (t <= 1))
    if c.loss.name == "vdm":
        mean = jax.jit(
            jax.grad(
                lambda params: loss_at_rest(experiment, params, rows, t, jax.random.split(jax.random.key(1), 4))[
                    0
                ].mean()
            )
        )
        assert all(value != 0 for value in mean(params)["schedule"].values())
    assert list(metrics) == (["diffusion", "prior", "reconstruction"] if c.loss.name == "vdm" else ["mse"])


FEATURES = quality.feature_network("digits", (8, 8, 1), 17)
EXACT = {
    "features": (FEATURES.apply, FEATURES.params, jnp.zeros((2, 8, 8, 1), jnp.uint8)),
    "learned rates": (learned.betas(8, bumps=3).schedule({"perturbation": jnp.zeros(3)}), jnp.ones(2)),
    "learned gamma": (
        lambda t: learned.gamma_net().schedule(learned.gamma_net().init(jax.random.key(0)))(t),
        jnp.ones(2),
    ),
    "colours": (degradation.colour((8, 8, 3)).rotate, jnp.ones((2, 8, 8, 3))),
    "detail": (degradation.detail((8, 8, 3)).rotate, jnp.ones((2, 8, 8, 3))),
}


@pytest.mark.parametrize("what", EXACT)
def test_exact_operations_have_the_highest_precision(what):
    """Convolutions and products of GPUs and TPUs round float32 unless they are told not to."""
    function, *inputs = EXACT[what]
    program = str(jax.make_jaxpr(function)(*inputs))
    told = set(re.findall(r"precision=(\S+?),? ", program))
    assert told and all("HIGHEST" in precision for precision in told), told


@pytest.mark.parametrize(("schedule", "names"), [("linear", {"vlb"}), ("linear_logsnr", {"vlb", "ends"})])
def test_the_loss_vlb_is_the_whole_bound(schedule, names):
    """Terms of no step are in it where the schedule starts with noise, as their sum is then no rounding error."""
    c = config(loss__name="vlb", schedule__name=schedule, network__name="mlp", data__shape=(5,))
    c.schedule.linear_logsnr.gamma_min = -2.0
    experiment = wiring.build(c)
    batch = {"x0": jnp.zeros((2, 5)), "label": jnp.full(2, -1), "index": jnp.arange(2)}
    params = wiring.init(c, experiment.network, jax.random.key(0))
    loss, metrics = experiment.loss(params, batch, jnp.array([0.5, 1.0]), jax.random.split(jax.random.key(1), 2))
    assert set(metrics) == names
    np.testing.assert_allclose(loss, sum(metrics.values()), rtol=1e-6)
    if "ends" in names:
        path = experiment.schedule(params)
        nats = experiment.process.prior_kl(path, batch["x0"])
        assert (metrics["ends"] > nats / (5 * np.log(2))).all()  # and the decoder's bits
