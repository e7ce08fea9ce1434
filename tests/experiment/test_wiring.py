"""The wiring: what a config may say, and the one line in which it is refused."""

import re

import jax
import jax.numpy as jnp
import pytest
from small_configs import BITS, CONTINUOUS, LEVELS, MASKED, config

from diffusion_jax.experiment import quality, wiring
from diffusion_jax.process import learned
from diffusion_jax.sampling import degradation
from diffusion_jax.sampling.registry import SAMPLERS

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


@pytest.mark.parametrize(("changes", "key"), REFUSED_OF_2015)
def test_choices_unsuitable_for_2015_are_refused_in_one_line(changes, key):
    test_refused_in_one_line_that_names_the_key(changes, key)


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
