"""The wiring: the only file that turns a string of a config into a function.

Every choice is `section.name`, and the options of each possible choice live beside it under `section.<that name>`, so
one flag, `--config.schedule.name=cosine`, is an ablation. Everything is checked here, before anything compiles.
"""

import difflib
import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from diffusion_jax.data import arrays, dead_leaves, embedded, entropies, folder, heartbeat, tfds
from diffusion_jax.data.scaling import dequantised, from_model, to_model
from diffusion_jax.data.source import Source
from diffusion_jax.interop import feature_networks
from diffusion_jax.networks import features
from diffusion_jax.networks.encoder import Encoder
from diffusion_jax.networks.mlp import MLP
from diffusion_jax.networks.multiscale import MultiScale
from diffusion_jax.networks.ncsnpp import NCSNpp
from diffusion_jax.networks.rbf import RBF
from diffusion_jax.networks.sequence_mlp import SequenceMLP
from diffusion_jax.networks.unet import UNet
from diffusion_jax.networks.vdm import VDMUNet
from diffusion_jax.objective import bound, decoders, losses, prediction, reverse, time_sampling
from diffusion_jax.process import learned, schedules
from diffusion_jax.process.base import Array, Level, Process, Schedule, in_float64, level
from diffusion_jax.process.binomial import binomial
from diffusion_jax.process.gaussian import gaussian
from diffusion_jax.sampling import (
    ancestral,
    ddim,
    edm,
    exponential,
    flow,
    grids,
    guidance,
    langevin,
    loop,
    probability_flow,
    sde,
    unipc,
)

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "unet": UNet,
    "ncsnpp": NCSNpp,
    "vdm": VDMUNet,
    "mlp": MLP,
    "rbf": RBF,
    "sequence_mlp": SequenceMLP,
    "multiscale": MultiScale,
    "encoder": Encoder,
}
BY_STEP = ("rbf", "sequence_mlp", "multiscale")
"""Networks that read out step by step, and so have to know how many there are."""
PROCESSES: dict[str, Callable[..., Process]] = {"gaussian": gaussian, "binomial": binomial}
SCHEDULES = schedules.CHAINS | schedules.CONTINUOUS | learned.LEARNED
LEARNED_SCHEDULES = tuple(learned.LEARNED)
"""Schedules that have parameters."""
OF_A_CHAIN: dict[str, Callable[[int], prediction.Target]] = {
    "posterior_mean": prediction.posterior_mean,
    "dpm2015_code": prediction.dpm2015,
    "dpm2015_paper": prediction.dpm2015,
}
"""Parameterisations of the step to the level before."""
TARGETS: dict[str, Callable[..., prediction.Target]] = prediction.TARGETS | OF_A_CHAIN
TELLINGS: dict[str, Callable[..., prediction.Telling]] = {
    "step": prediction.tell_step,
    "time": prediction.tell_time,
    "logsnr": prediction.tell_logsnr,
    "log_sigma": prediction.tell_log_sigma,
}
INPUTS: dict[str, Callable[..., prediction.InputScale] | None] = {
    "as_it_is": None,
    "unit_variance": prediction.unit_variance,
}
METHODS: dict[str, Callable[..., loop.Method]] = {
    "ancestral": ancestral.ancestral,
    "ddim": ddim.ddim,
    "euler_maruyama": sde.euler_maruyama,
    "reverse_diffusion": sde.reverse_diffusion,
    "predictor_corrector": langevin.predictor_corrector,
    "annealed_langevin": langevin.annealed_langevin,
    "ode_euler": probability_flow.ode_euler,
    "ode_heun": probability_flow.ode_heun,
    "edm": edm.edm,
    "dpmpp_1s": exponential.dpmpp_1s,
    "dpmpp_2m": exponential.dpmpp_2m,
    "dpmpp_3m": exponential.dpmpp_3m,
    "dpmpp_2m_sde": exponential.dpmpp_2m_sde,
    "unipc": unipc.unipc,
    "dopri5": flow.dopri5,
}
CHAIN_GRIDS: dict[str, Callable[[int, int], np.ndarray]] = {
    "uniform": loop.uniform_times,
    "inclusive": loop.inclusive_times,
    "strided": loop.strided_times,
    "to_first": loop.to_first_times,
}
"""Grids of whole steps of a chain; `grids.GRIDS` are those of any schedule."""
SOURCES: dict[str, Callable[..., Source]] = {
    "digits": embedded.digits,
    "toy2d": embedded.toy2d,
    "heartbeat": heartbeat.heartbeat,
    "dead_leaves": dead_leaves.dead_leaves,
    "arrays": arrays.arrays,
    "folder": folder.folder,
    "tfds": tfds.tfds,
}
FEATURES: dict[str, Callable[..., features.FeatureNetwork]] = {
    "pixels": features.pixels,
    "digits": feature_networks.digits,
    "inception": feature_networks.inception,
}
JUDGES: dict[str, Callable[[np.ndarray], dict[str, float]]] = {"heartbeat": heartbeat.count}
"""Of data sets whose every example is known: what can be counted in samples."""
LEARNED = ("learned_diagonal", "learned_range", "dpm2015_paper", "dpm2015_code")
"""Reverse variances that the network's head gives."""
BOUND_LOSSES = ("vlb", "hybrid", "K")
"""Losses with a term of a variational bound; the others are the weights of a squared error."""
CLASSIFIERS = ("encoder", "mlp")
"""Networks whose output may be the logits of classes, for loss.name=cross_entropy."""
GUIDANCES = ("none", "classifier_free", "classifier", "autoguidance")
NEED_CHAIN = "a chain: set process.num_steps to its number of steps, 1000 for example"


class Experiment(NamedTuple):
    """All the functions of a run, as its config asks for them; nothing in it holds parameters."""

    network: nn.Module
    schedule: Callable[[Any], Schedule]
    """`schedule(params) -> Schedule`; a fixed one ignores params."""
    process: Process
    predict: prediction.Predict
    guided: prediction.Predict
    """`predict` with the guidance that config.guidance asks for, as the sampler takes it."""
    reverse: reverse.Reverse
    times: time_sampling.TimeSampler
    loss: losses.Loss
    """Takes batches as the data pipeline makes them (uint8, or float32 vectors)."""
    optimizer: optax.GradientTransformation
    sampler: loop.Sampler


def choose(section: str, name: str, table: Mapping[str, Any]) -> Any:
    """`table[name]`, or a ValueError that names the section, what is allowed and the nearest name."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"{section}={name!r} is not known{hint}; use one of {', '.join(table)}")


def options(section: ConfigDict) -> dict[str, Any]:
    """The options of the choice that a section makes."""
    return dict(section.get(section.name, {}))


def source(config: ConfigDict, split: str) -> Source:
    """Open a split, "train" or "heldout", of the data; raises ValueError if it is not what config.data says."""
    data = config.data
    opened = choose("data.name", data.name, SOURCES)(split, **options(data))
    if data.shape:
        for field in ("shape", "levels", "classes"):
            said, found = data[field], getattr(opened, field)
            if said != found:
                raise ValueError(
                    f"data.{field}: the config says {said}, but {data.name} has {found}; correct the config"
                )
    return opened


def known_entropies(config: ConfigDict, path: Schedule) -> dict[str, float]:
    """-H(x_0) and -H(x_1) in bits of the data of a config, of the first level of its chain; {} where nobody knows."""
    data = config.data
    log_alpha, log_sigma = in_float64(path, np.array(1 / config.process.num_steps))
    if data.name == "toy2d" and data.toy2d.kind == "swissroll" and config.process.name == "gaussian":
        return entropies.swissroll(data.toy2d.noise, float(np.exp(log_alpha)), float(np.exp(log_sigma)))
    if data.name == "heartbeat" and config.process.name == "binomial":
        return entropies.heartbeat(config.process.binomial.rate, float(np.exp(log_alpha)))
    return {}


def resolve(config: ConfigDict, train: Source) -> ConfigDict:
    """The config with the shape, levels, classes and size of its data filled in, as a checkpoint keeps it."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.update(shape=train.shape, levels=train.levels, classes=train.classes, size=train.size)
    return config


def schedule(config: ConfigDict, params: Any = None) -> Callable[[Any], Schedule]:
    """The function params -> Schedule of a config.

    params: where given, those of a trained run, of which a learned schedule is made once and for all: *frozen*. One
    that is not frozen reads params["schedule"] whenever it is asked, and raises ValueError where there are none.
    """
    name = config.schedule.name
    made = _scheduled(config)
    if name not in LEARNED_SCHEDULES:
        return lambda params: made
    if params is not None:
        frozen = made.schedule(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["schedule"]))
        return lambda params: frozen

    def path(params: Any) -> Schedule:
        if params is None:
            raise ValueError(
                f"schedule.name={name!r} is learned, and a fixed grid of it needs its parameters: freeze it by "
                "build.build(config, params), as trained.load does"
            )
        return made.schedule(params["schedule"])

    return path


def _scheduled(config: ConfigDict) -> Any:
    """What the factory of the schedule returns: a Schedule, or a Learned."""
    name, steps = config.schedule.name, config.process.num_steps
    factory = choose("schedule.name", name, SCHEDULES)
    needs_chain = name in schedules.CHAINS or name == "learned_betas"
    if needs_chain and not steps:
        raise ValueError(f"schedule.name={name!r} needs {NEED_CHAIN}")
    try:
        with np.errstate(all="ignore"):  # what comes of it is checked
            made = factory(*[steps] if needs_chain else [], **options(config.schedule))
            if name not in LEARNED_SCHEDULES:
                check_schedule(made, steps)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ValueError(f"schedule.{name}={options(config.schedule)} gives no schedule: {error}") from error
    return made


def check_schedule(schedule: Schedule, num_steps: int) -> None:
    """Raise ValueError unless the ratio of noise to signal rises with t, at the levels of a chain or at 64 others."""
    times = np.linspace(0, 1, (num_steps or 64) + 1)
    found = in_float64(level, schedule, times)
    ratio = found.log_sigma - found.log_alpha
    if np.iscomplexobj(ratio) or not np.all(np.isfinite(found.log_alpha[:-1])) or not np.all(np.diff(ratio) > 0):
        raise ValueError("the ratio of noise to signal must be finite before t = 1 and rise with t")


def at_first(config: ConfigDict) -> Schedule:
    """The schedule before training, for what a config can say without parameters."""
    return schedule(config, {"schedule": init_schedule(config, jax.random.key(config.seed))})(None)


def build(
    config: ConfigDict,
    params: Any = None,
    apply: Callable[..., Any] | None = None,
    guide: ConfigDict | None = None,
) -> Experiment:
    """Turn a config, with `data.shape` filled in, into an Experiment. Raises ValueError where they do not fit.

    params: those of a trained run, which freeze a learned schedule; see `schedule`. apply: what stands in for the
    network's own, to see how often it is called (`count_calls`). guide: the config of the run that config.guidance
    names; its parameters are params["classifier"] or params["guide"].
    """
    check(config)
    if config.loss.name == "cross_entropy":
        return classifier(config)
    steps = config.process.num_steps
    process = choose("process.name", config.process.name, PROCESSES)(**options(config.process))
    check_process(config)
    path = schedule(config, params)

    variance = choose("prediction.variance", config.prediction.variance, reverse.VARIANCES)
    with_head = config.prediction.variance in LEARNED
    kernel = variance(process)

    *_, channels = config.data.shape
    if config.network.name == "encoder":
        raise ValueError("network.name='encoder' is a classifier; use loss.name=cross_entropy, or another network")
    net = network(config, channels * (2 if with_head else 1))

    aim = config.prediction.target
    if aim in OF_A_CHAIN and not steps:
        raise ValueError(f"prediction.target={aim!r} needs {NEED_CHAIN}")
    target = choose("prediction.target", aim, TARGETS)
    own: dict[str, Any] = {"num_steps": steps} if aim in OF_A_CHAIN else {}
    if aim == "edm":
        own = {"sigma_data": config.prediction.sigma_data}
    target = target(**own)
    tell = telling(config)
    if aim in ("eps", "score", "dpm2015_code", "dpm2015_paper") and not np.exp(
        in_float64(at_first(config), np.ones(()))[0]
    ):
        raise ValueError(
            f"prediction.target={aim!r}: with schedule.name={config.schedule.name!r} nothing of "
            "x0 is left at t = 1, where it cannot be found from the noise; use v, x0 or posterior_mean"
        )
    shape = prediction.attracted(steps) if aim == "dpm2015_paper" else None
    predict = prediction.predictor(apply or net.apply, path, target, tell, with_head, input_scale(config), shape)
    if config.process.name == "binomial":
        predict = prediction.bit_predictor(apply or net.apply, tell)
    predict = prediction.drop_labels(predict, config.network.label_dropout)
    guided_predict = guided(config, predict, guide, apply)

    terms = loss_terms(config, process, path, target, kernel)
    loss = _in_model_range(losses.weighted_sum(predict, process, path, terms), into_range(config))

    return Experiment(
        network=net,
        schedule=path,
        process=process,
        predict=predict,
        guided=guided_predict,
        reverse=kernel,
        times=time_sampler(config),
        loss=loss,
        optimizer=optimizer(config.optimizer),
        sampler=sampler(config, process, path, guided_predict, kernel),
    )


def network(config: ConfigDict, out_channels: int) -> Any:
    """The network of a config, a linen module."""
    name, network_options = config.network.name, options(config.network)
    if name in BY_STEP:
        network_options["num_steps"] = config.process.num_steps
        if config.network.told != "step":
            raise ValueError(f"network.name={name!r} reads out by the step: set network.told=step")
        if config.network.conditional:
            raise ValueError(f"network.name={name!r} takes no labels: set network.conditional=False")
    elif name != "mlp":
        network_options["remat"] = config.remat
    return choose("network.name", name, NETWORKS)(
        out_channels=out_channels,
        num_classes=config.data.classes if config.network.conditional else 0,
        **network_options,
    )


def telling(config: ConfigDict) -> prediction.Telling:
    """What the network is told about time."""
    name, steps = config.network.told, config.process.num_steps
    tell = choose("network.told", name, TELLINGS)
    if name == "step" and not steps:
        raise ValueError(f"network.told='step' needs {NEED_CHAIN}")
    return tell(steps) if name == "step" else tell()


def input_scale(config: ConfigDict) -> prediction.InputScale | None:
    """By what the network's input is multiplied, if by anything."""
    scale = choose("prediction.input", config.prediction.input, INPUTS)
    return scale(config.prediction.sigma_data) if scale else None


def class_log_probs(config: ConfigDict, net: Any) -> Callable[..., Array]:
    """`log_probs` of the classifier that is the network of a config."""
    return prediction.classifier(net.apply, telling(config), input_scale(config))


def classifier(config: ConfigDict) -> Experiment:
    """The Experiment of loss.name=cross_entropy, a classifier of noisy examples: to train, and to guide by."""
    choose("network.name", config.network.name, NETWORKS)
    if config.network.name not in CLASSIFIERS or config.network.conditional:
        raise ValueError("loss.name='cross_entropy' needs network.name=encoder, or mlp for vectors, not conditional")
    if not config.data.classes:
        raise ValueError("loss.name='cross_entropy' learns the class, but the data have no classes; use labelled data")
    if config.report.samples_every:
        raise ValueError("loss.name='cross_entropy' makes no samples to report; set report.samples_every=0")
    process = choose("process.name", config.process.name, PROCESSES)(**options(config.process))
    path, net = schedule(config), network(config, config.data.classes)
    log_probs = class_log_probs(config, net)

    def none(*args: Any, **kwargs: Any) -> Any:
        raise ValueError(
            "this run holds a classifier (loss.name=cross_entropy), which is no model of the data; give it to one that "
            "is: --guidance.name=classifier --guidance.classifier.workdir=DIR"
        )

    return Experiment(
        network=net,
        schedule=path,
        process=process,
        predict=none,
        guided=none,
        reverse=none,
        times=time_sampler(config),
        loss=_in_model_range(losses.cross_entropy(log_probs, process, path), config.data.levels),
        optimizer=optimizer(config.optimizer),
        sampler=loop.Sampler(none, none, none, none, none, none),
    )


def time_sampler(config: ConfigDict) -> time_sampling.TimeSampler:
    """Which times a batch looks at."""
    steps, times = config.process.num_steps, choose("times.name", config.times.name, time_sampling.TIME_SAMPLERS)
    if config.times.name == "log_normal" and steps:
        raise ValueError(f"times.name='log_normal' is for continuous time, but process.num_steps={steps}; set it to 0")
    over = schedule(config)(None) if config.times.name == "log_normal" else steps
    return times(over, config.times.min_t, **options(config.times))


def guided(
    config: ConfigDict, predict: prediction.Predict, guide: ConfigDict | None, apply: Callable[..., Any] | None = None
) -> prediction.Predict:
    """`predict` with the guidance of config.guidance. Raises ValueError where model, guide and scale do not fit.

    guide, apply: see `build`; a worse model is counted with its network, a classifier is not.
    """
    section = config.guidance
    name, scale, interval = section.name, float(section.scale), tuple(section.interval_t)
    choose("guidance.name", name, dict.fromkeys(GUIDANCES))
    if len(interval) != 2 or not 0 <= interval[0] < interval[1] <= 1:
        raise ValueError(f"guidance.interval_t={interval} must be two times that rise, in [0, 1]")
    if not 0 <= section.rescale <= 1:
        raise ValueError(f"guidance.rescale={section.rescale} must lie in [0, 1]")
    if name == "none":
        if scale != 1:
            raise ValueError(
                f"guidance.scale={scale} means nothing with guidance.name='none'; use one of {', '.join(GUIDANCES[1:])}"
            )
        return predict
    if name == "classifier_free":
        if not (config.network.conditional and config.network.label_dropout):
            raise ValueError(
                "guidance.name='classifier_free' needs a model trained with and without labels (network.conditional="
                f"True, network.label_dropout > 0), not {config.network.conditional}, {config.network.label_dropout}"
            )
        return guidance.classifier_free(predict, scale, interval, section.rescale)
    if guide is None:
        raise ValueError(
            f"guidance.name={name!r} takes another run, when sampling: --guidance.name={name} "
            f"--guidance.{name}.workdir=DIR"
        )
    check_guide(config, guide)
    if name == "classifier":
        log_probs = class_log_probs(guide, network(guide, guide.data.classes))
        return guidance.classifier(predict, log_probs, scale, interval)
    return guidance.autoguidance(predict, build(guide, apply).predict, scale, interval, section.rescale)


def check_guide(config: ConfigDict, guide: ConfigDict) -> None:
    """Raise ValueError unless the run with the config `guide` can guide that of `config`."""
    name, where = config.guidance.name, config.guidance[config.guidance.name].workdir
    if (guide.loss.name == "cross_entropy") != (name == "classifier"):
        raise ValueError(f"guidance.{name}: {where} was trained with loss.name={guide.loss.name!r}; use another run")
    told = name == "classifier" or config.network.conditional
    for field, ours, theirs in (
        ("process", config.process.to_dict(), guide.process.to_dict()),
        ("schedule", *((c.schedule.name, options(c.schedule)) for c in (config, guide))),
        *((f"data.{key}", config.data[key], guide.data[key]) for key in ("shape", "levels", "classes")),
    ):
        if ours != theirs and (told or field != "data.classes"):
            raise ValueError(f"guidance.{name}: {where} was trained with {field} {theirs}, this run with {ours}")


def asks_for_class(config: ConfigDict) -> bool:
    """Whether a sample is one of a class that is asked for."""
    return config.network.conditional or config.guidance.name == "classifier"


def loss_terms(
    config: ConfigDict,
    process: Process,
    path: Callable[[Any], Schedule],
    target: prediction.Target,
    kernel: reverse.Reverse,
) -> dict[str, tuple[float, losses.Term]]:
    """name -> (factor, term) of the loss. Raises ValueError where loss and reverse variance do not suit each other."""
    name, variance, steps = config.loss.name, config.prediction.variance, config.process.num_steps
    choose("loss.name", name, losses.WEIGHTS | dict.fromkeys((*BOUND_LOSSES, "vdm", "cross_entropy")))
    choose("loss.reduction", config.loss.reduction, losses.REDUCTIONS)
    if name in BOUND_LOSSES and not steps:
        raise ValueError(f"loss.name={name!r} needs {NEED_CHAIN}")
    if name == "K" and steps < 2:
        raise ValueError(f"loss.name='K' has T - 1 terms: process.num_steps={steps} must be at least 2")
    if name not in ("vlb", "K", "vdm") and config.schedule.name in LEARNED_SCHEDULES:
        raise ValueError(
            f"schedule.name={config.schedule.name!r}: loss.name={name!r} does not train it; use loss.name=K, vlb or vdm"
        )
    if name not in BOUND_LOSSES and variance in LEARNED:
        raise ValueError(
            f"prediction.variance={variance!r}: loss.name={name!r} does not train it; use loss.name=hybrid or vlb, or "
            "prediction.variance=fixed_small or fixed_large"
        )
    if name == "hybrid" and variance not in LEARNED:
        raise ValueError(
            f"loss.name='hybrid' trains a learned variance, but prediction.variance={variance!r}; use learned_range or "
            "learned_diagonal, or loss.name=simple"
        )
    if name == "vdm":
        check_vdm(config)
        return {part: (1.0, term) for part, term in losses.vdm(process, path, decoder(config)).items()}
    if name not in BOUND_LOSSES:
        own = {"edm": {"sigma_data": config.prediction.sigma_data}}
        if name == "likelihood":
            own["likelihood"] = {"schedule": path(None)}
        weight = losses.WEIGHTS[name](**options(config.loss), **own.get(name, {}))
        return {"mse": (1.0, losses.weighted_mse(path, target, weight, config.loss.reduction))}
    rows = chain_rows(config, process, path)
    if name == "K":
        return {"K": (1.0, losses.K(process, kernel, path, rows, steps))}
    vlb = losses.vlb(vlb_term(config, process, kernel), rows, steps, stop_mean=name == "hybrid")
    if name == "vlb" and config.schedule.name in LEARNED_SCHEDULES:
        noisy = bool(np.isfinite(in_float64(at_first(config), np.zeros(()))[1]))
        return {"vlb": (1.0, vlb), "ends": (1.0, losses.ends(process, path, decoder(config) if noisy else None))}
    if name == "vlb":
        return {"vlb": (1.0, vlb)}
    return {"mse": (1.0, losses.weighted_mse(path, target, losses.simple())), "vlb": (config.loss.hybrid.factor, vlb)}


def check_vdm(config: ConfigDict) -> None:
    """Raise ValueError where the bound in continuous time has no meaning."""
    if config.process.num_steps:
        raise ValueError(
            f"loss.name='vdm' is the bound in continuous time, but process.num_steps={config.process.num_steps}; set "
            "it to 0, or use loss.name=vlb"
        )
    if config.times.min_t or config.times.name == "log_normal":
        raise ValueError(
            f"loss.name='vdm' needs all t in [0, 1] alike, not times.name={config.times.name!r} with times.min_t="
            f"{config.times.min_t}; use times.name=low_discrepancy and times.min_t=0"
        )
    if not np.isfinite(in_float64(at_first(config), np.zeros(()))[1]):
        raise ValueError(
            f"loss.name='vdm' needs noise at t = 0, where schedule.name={config.schedule.name!r} has none; use "
            "linear_logsnr, ve or edm"
        )


def decoder(config: ConfigDict) -> decoders.Decoder:
    """The decoder of the bound. Raises ValueError if it does not suit the data."""
    return choose("bound.decoder", config.bound.decoder, decoders.DECODERS)(config.data.levels)


def vlb_term(config: ConfigDict, process: Process, kernel: reverse.Reverse) -> bound.StepTerm:
    """A step's term of the variational bound. Raises ValueError if the decoder does not suit the data."""
    if config.process.name == "binomial":
        return bound.kl_term(process, kernel)
    return bound.step_term(process, kernel, decoder(config))


def chain_rows(
    config: ConfigDict, process: Process, path: Callable[[Any], Schedule], num_steps: int = 0
) -> Callable[[Any], Any]:
    """`rows(params)`: the steps of the bound, of the chain or num_steps of its levels, down to that without noise."""
    chain = config.process.num_steps
    if not (num_steps or chain):
        raise ValueError(f"bound.num_steps=0 means as many as the chain has; set it, or have {NEED_CHAIN}")
    if num_steps not in (0, chain):
        check_single_steps(config, "bound.num_steps=0")
    return grid_rows(config, process, path, loop.uniform_times(num_steps or chain, chain), denoise=True)


def grid_rows(
    config: ConfigDict,
    process: Process,
    path: Callable[[Any], Schedule],
    times: np.ndarray,
    denoise: bool,
    method: loop.Method | None = None,
) -> Callable[[Any], Any]:
    """`rows(params)` of a grid: computed once, in float64 on the host, or of a learned schedule traced from params."""
    try:
        known = path(None)
    except ValueError:  # learned, and not frozen
        noisy = np.isfinite(in_float64(at_first(config), times[-1:])[1][0])
        return lambda params: loop.traced_rows(process, path(params), times, denoise and bool(noisy), method)
    fixed = loop.rows(process, known, times, denoise, method)
    return lambda params: fixed


def check_single_steps(config: ConfigDict, instead: str) -> None:
    """Raise ValueError for steps over several levels of the chain with a variance that is learned for single ones."""
    if config.prediction.variance == "learned_diagonal":
        raise ValueError(
            f"prediction.variance='learned_diagonal' is that of single steps of the chain; leave {instead}, or use "
            "learned_range for fewer steps"
        )


def _in_model_range(loss: losses.Loss, into: Callable[[Array, Array], Array]) -> losses.Loss:
    """`loss` on batches at rest: the one place where data become floats in the range of the model."""

    def on_data(
        params: Any, batch: dict[str, Array], t: Array, keys: Array, *args: Any, **kwargs: Any
    ) -> tuple[Array, dict[str, Array]]:
        return loss(params, batch | {"x0": into(batch["x0"], keys)}, t, keys, *args, **kwargs)

    return on_data


def into_range(config: ConfigDict) -> Callable[[Array, Array], Array]:
    """`into(x[B,*D] at rest, keys[B]) -> x0`, as config.data says; the keys are for dequantisation alone."""
    data = config.data

    def into(x: Array, keys: Array) -> Array:
        x0 = to_model(x, data.levels, data.mean, data.std)
        if not data.dequantise:
            return x0
        return dequantised(x0, data.levels, data.std, jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, 2**31))

    return into


def out_of_range(config: ConfigDict) -> Callable[[ArrayLike], Array]:
    """`out(x0) -> x at rest`: the nearest grey levels, or floats."""
    return lambda x0: from_model(x0, config.data.levels, config.data.mean, config.data.std)


def sampler(
    config: ConfigDict,
    process: Process,
    path: Callable[[Any], Schedule],
    predict: prediction.Predict,
    kernel: reverse.Reverse,
) -> loop.Sampler:
    """The sampler that config.sampler asks for. Raises ValueError for one that process or variance do not suit."""
    chosen = options(config.sampler)
    if config.sampler.name == "ancestral":
        chosen["draw"] = process.draw
    method = choose("sampler.name", config.sampler.name, METHODS)(**chosen)
    if method.score and config.process.name != "gaussian":
        raise ValueError(
            f"sampler.name={config.sampler.name!r} needs the score of a Gaussian process, which process.name="
            f"{config.process.name!r} does not have; use sampler.name=ancestral"
        )
    chain = config.process.num_steps
    times = solver_times(config, path) if method.walk else sampling_times(config, path)
    whole = chain and np.allclose(times * chain, np.round(times * chain), atol=1e-6)
    if config.prediction.target == "posterior_mean" and not whole:
        raise ValueError(
            "prediction.target='posterior_mean' is that of whole steps of the chain; leave sampler.grid=uniform, or "
            "name sampler.steps"
        )
    if method.signal and not np.exp(in_float64(at_first(config), np.ones(())))[0]:
        raise ValueError(
            f"sampler.name={config.sampler.name!r}: with schedule.name={config.schedule.name!r} nothing of x0 is left "
            "at t = 1, where it cannot start; use ancestral, ddim or dpmpp_2m"
        )
    if method.kernel and len(times) - 1 != chain:
        check_single_steps(config, "sampler.num_steps=0 and report.sampler_steps=0")
    rows = grid_rows(config, process, path, times, config.sampler.denoise, method)
    if clips(config, config.sampler):
        predict = prediction.clip_x0(predict)
    shape = tuple(config.data.shape)

    def start(params: Any, seeds: Array) -> tuple[Array, Array]:
        keys_prior, keys = jnp.moveaxis(jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)))(seeds), 1, 0)
        return process.prior(path(params), keys_prior, shape), keys

    def labels(seeds: Array) -> Array | None:
        if not asks_for_class(config):
            return None
        keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 1))(seeds)
        return jax.vmap(lambda key: jax.random.randint(key, (), 0, config.data.classes))(keys)

    def walk(
        params: Any, x: Array, memory: Any, keys: Array, rows: Any, first: Array | int = 0, label: Array | None = None
    ) -> tuple[Array, Any]:
        def bound(x: Array, level: Level) -> prediction.Prediction:
            return predict(params, x, level, label, None)

        if method.walk:
            return method.walk(bound, path(params), rows, x, memory)
        return loop.sample(method.step, bound, kernel, rows, x, keys, memory, first)

    def guess(params: Any, x: Array, level: Level, label: Array | None = None) -> Array:
        each = jax.tree.map(lambda field: jnp.full(len(x), field, x.dtype), level)
        return predict(params, x, each, label, None).x0

    return loop.Sampler(rows, start, labels, method.memory, walk, guess)


def count_calls(config: ConfigDict, params: Any, guide: ConfigDict | None = None) -> int:
    """How often the sampler of a config asks the network for one sample: counted while its loop runs on a stand-in.

    The stand-in answers 0, at once; a call for a batch, as guidance may make, counts as many times as it has rows.
    Where the calls depend on the answers (dopri5), the network gives them, and it is the mean over seeds 0 to 7.
    """
    adaptive = config.sampler.name == "dopri5"
    network = build(config, guide=guide).network if adaptive else None
    calls = 0

    def tick(rows: int) -> None:
        nonlocal calls
        calls += int(rows)

    def answer(variables: Any, x: Array, *told: Any) -> Any:
        jax.debug.callback(tick, len(x))
        if network:
            return network.apply(variables, x, *told)
        twice = config.prediction.variance in LEARNED
        return jnp.zeros((*x.shape[:-1], x.shape[-1] * (2 if twice else 1)), x.dtype)

    sample = jax.jit(build(config, params, answer, guide).sampler.sample)
    seeds = jnp.arange(8 if adaptive else 1, dtype=jnp.uint32)
    for seed in seeds:
        jax.block_until_ready(sample(params, seed[None]))
    jax.effects_barrier()
    return round(calls / len(seeds))


def clips(config: ConfigDict, section: ConfigDict) -> bool:
    """Whether the predicted x0 is clipped, as config.sampler or config.bound says.

    Never for a network that predicts the posterior mean: that is taken as it is, and x0 only follows from it. Clipped,
    it would throw most of the mean away where one step tells little of x0. Source: the public code of Ho et al. 2020.
    """
    return section.clip_x0 and config.prediction.target != "posterior_mean"


def sampling_times(config: ConfigDict, path: Callable[[Any], Schedule]) -> np.ndarray:
    """The falling time grid that config.sampler asks for. Raises ValueError where schedule or chain do not have it."""
    section, chain = config.sampler, config.process.num_steps
    if section.min_t and chain:
        raise ValueError(f"sampler.min_t={section.min_t}: a chain ends at its first level; leave it 0")
    if section.times:
        return grids.chosen(section.times, section.min_t)
    choose("sampler.grid", section.grid, CHAIN_GRIDS | grids.GRIDS)
    if (section.steps or section.grid not in grids.GRIDS) and not chain:
        raise ValueError(f"sampler.grid={section.grid!r} and sampler.steps need {NEED_CHAIN}")
    if section.steps:
        return loop.chosen_times(tuple(section.steps), chain)
    num_steps = section.num_steps or chain
    if chain and section.grid in CHAIN_GRIDS:
        return CHAIN_GRIDS[section.grid](num_steps, chain)
    if section.grid in ("logsnr", "karras") and config.schedule.name in LEARNED_SCHEDULES:
        raise ValueError(
            f"sampler.grid={section.grid!r} needs a schedule that is known beforehand, but schedule.name="
            f"{config.schedule.name!r} is learned; use uniform or quadratic"
        )
    known = at_first(config) if config.schedule.name in LEARNED_SCHEDULES else path(None)  # which those two never ask
    grid = functools.partial(grids.GRIDS[section.grid], known, **dict(section.get(section.grid, {})))
    if not chain:
        return grid(num_steps, section.min_t)
    # A chain has noise from its first level on: the grid is spread down to there, and ends with the step to x0.
    return np.append(grid(num_steps - 1, 1 / chain) if num_steps > 1 else [1.0], 0.0)


def solver_times(config: ConfigDict, path: Callable[[Any], Schedule]) -> np.ndarray:
    """The grid of a sampler that chooses its own steps: its ends, and between them where it may be cut into parts."""
    if config.prediction.target == "posterior_mean":
        raise ValueError(
            f"sampler.name={config.sampler.name!r} looks between the levels of the chain, where "
            "prediction.target='posterior_mean' has no meaning; use ancestral"
        )
    if config.process.num_steps:
        return loop.uniform_times(config.process.num_steps, config.process.num_steps)
    return np.linspace(1, lowest_time(config, path, config.sampler.min_t), 101)


def lowest_time(config: ConfigDict, path: Callable[[Any], Schedule], min_t: float = 0.0) -> float:
    """Where an ODE ends: min_t, or for 0 the lowest level with noise of a schedule that has one, or else t = 1e-5.

    That of a chain is 1/T, that of VE, EDM and the like t = 0. Source of 1e-5: Song et al. 2021, appendix C.
    """
    if min_t:
        return min_t
    if config.process.num_steps:
        return 1 / config.process.num_steps
    if config.schedule.name in LEARNED_SCHEDULES:
        return 0.0
    return 0.0 if np.isfinite(in_float64(path(None), np.zeros(1))[1]).all() else 1e-5


def feature_network(name: str, shape: tuple[int, ...], levels: int, **options: Any) -> features.FeatureNetwork:
    """A network of FEATURES, or the user's own function "module:function", for data at rest of a shape and levels.

    The function takes NumPy arrays at rest [B,*D] and returns features [B,F]. Raises ValueError if there is none.
    """
    if ":" not in name:
        network = choose("features", name, FEATURES)(shape, levels, **(options if name == "inception" else {}))
        in_range = network.apply
        return network._replace(apply=lambda params, x: in_range(params, to_model(x, levels)))
    module, _, function = name.partition(":")
    try:
        own = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"features={name!r} cannot be imported ({error}); give module:function") from error
    return features.own(function, own)


def optimizer(section: ConfigDict) -> optax.GradientTransformation:
    """Adam with linear warm-up from 0 and clipping by the global norm of the averaged gradient (0 = no clipping).

    With weight_decay it is AdamW: the decay, times the learning rate, is taken from the parameters themselves.

    Ho's TensorFlow code clips per replica, before the average, and adds epsilon before the bias correction; both make
    the result depend on the number of devices or on the step in ways that are not meant, so neither is copied.
    """
    rate: Any = section.learning_rate
    if section.warmup_steps:
        rate = optax.linear_schedule(0.0, section.learning_rate, section.warmup_steps)
    moments = {"b1": section.b1, "b2": section.b2, "eps": section.eps}
    decay = section.weight_decay
    adam = optax.adamw(rate, weight_decay=decay, **moments) if decay else optax.adam(rate, **moments)
    return optax.chain(optax.clip_by_global_norm(section.grad_clip), adam) if section.grad_clip else adam


def init(config: ConfigDict, network: nn.Module, key: Array) -> dict[str, Any]:
    """Fresh parameters {"net": …, and "schedule": … if it is learned}.

    The network checks the shape of the data here: ValueError.
    """
    x = jnp.zeros((1, *config.data.shape))
    label = jnp.zeros(1, jnp.int32)
    net = jax.jit(network.init)(key, x, jnp.zeros(1), label, None)["params"]
    of_schedule = init_schedule(config, key)
    return {"net": net} | ({"schedule": of_schedule} if of_schedule is not None else {})


def init_schedule(config: ConfigDict, key: Array) -> Any:
    """The parameters of a schedule before training; None for a fixed one."""
    if config.schedule.name not in LEARNED_SCHEDULES:
        return None
    return _scheduled(config).init(jax.random.fold_in(key, 1))


def parameters(config: ConfigDict, network: nn.Module) -> dict[str, Any]:
    """Shapes and dtypes of the parameters, computed without running or compiling anything."""
    return jax.eval_shape(functools.partial(init, config, network), jax.random.key(0))


def check_process(config: ConfigDict) -> None:
    """Raise ValueError where a config asks of bits what only numbers have, or of a kernel what it does not have."""
    target, variance, name = config.prediction.target, config.prediction.variance, config.schedule.name
    data = config.data
    if not data.std > 0:
        raise ValueError(f"data.std={data.std} must be above 0")
    if data.dequantise and not data.levels:
        raise ValueError("data.dequantise=True spreads grey levels out, but the data are floats (levels=0); use False")
    if (data.mean, data.std, data.dequantise) != (0, 1, False):
        clipped = [f"{key}.clip_x0" for key in ("sampler", "bound") if config[key].clip_x0]
        if clipped:
            raise ValueError(f"{clipped[0]}=True clips to [-1, 1], which data.mean, std or dequantise leave; use False")
        if config.loss.name in ("vlb", "hybrid") and config.bound.decoder != "density":
            raise ValueError(
                f"bound.decoder={config.bound.decoder!r} is for data in [-1, 1], but data.mean, std or dequantise "
                "leave it; use bound.decoder=density, or loss.name=K"
            )
    if config.process.name == "binomial":
        needed = {"data.levels": 2, "prediction.target": "x0", "prediction.variance": "fixed_small"}
        for key, value in needed.items():
            section, field = key.split(".")
            if config[section][field] != value:
                raise ValueError(
                    f"process.name='binomial' is for bits, and needs {key}={value}, not {config[section][field]}"
                )
        if name not in schedules.CHAINS:
            raise ValueError(
                f"process.name='binomial' with schedule.name={name!r}: bits take the rates of a fixed chain, "
                "schedule.name=harmonic for example (no gradient goes through a drawn bit)"
            )
        if config.loss.name not in ("K", "vlb"):
            raise ValueError(f"process.name='binomial' with loss.name={config.loss.name!r}: use loss.name=K or vlb")
    if target == "dpm2015_paper" and variance != "dpm2015_paper":
        raise ValueError(
            f"prediction.target='dpm2015_paper' has the variance in its mean: set prediction.variance=dpm2015_paper, "
            f"not {variance}, or prediction.target=dpm2015_code"
        )
    if target in ("dpm2015_paper", "dpm2015_code") and name in ("ve", "edm", "subvp"):
        raise ValueError(f"prediction.target={target!r} needs a variance-preserving schedule, not {name!r}")


def check(config: ConfigDict) -> None:
    """Raise ValueError for values that no choice of functions can make sense of."""
    if not config.data.shape:
        raise ValueError("data.shape is empty; set it, or open the data first, which fills it in")
    at_least = {
        "train_steps": 1, "batch_size": 1, "accumulate_steps": 1, "process.num_steps": 0, "optimizer.learning_rate": 0,
        "optimizer.warmup_steps": 0, "optimizer.grad_clip": 0, "ema.ramp": 0, "sampler.num_steps": 0,
        "sampler.min_t": 0, "sampler.tile": 1, "bound.num_steps": 0, "bound.num_examples": 0, "ode.probes": 1,
        "ode.min_t": 0, "checkpoint.every": 1, "checkpoint.keep": 1,
        "checkpoint.keep_every": 0, "report.every": 1, "report.samples_every": 0, "report.num_samples": 1,
        "report.sampler_steps": 0, "eval.every": 0, "eval.max_examples": 1, "eval.passes": 1,
        "eval.num_samples": 0, "data.workers": 0, "times.importance.window": 1, "optimizer.eps": 0,
        "loss.min_snr.gamma": 0, "loss.p2.k": 0, "loss.hybrid.factor": 0, "optimizer.weight_decay": 0,
        "network.label_dropout": 0,
    }  # fmt: skip
    below = {"times.min_t": 1, "optimizer.b1": 1, "optimizer.b2": 1, "times.importance.uniform_share": 1}

    def of(name: str) -> Any:
        return functools.reduce(lambda node, key: node[key], name.split("."), config)

    for name, least in at_least.items():
        if not of(name) >= least:
            raise ValueError(f"{name}={of(name)} must be at least {least}")
    for name, end in below.items():
        if not 0 <= of(name) < end:
            raise ValueError(f"{name}={of(name)} is not in [0, {end})")
    if not config.prediction.sigma_data > 0:
        raise ValueError(f"prediction.sigma_data={config.prediction.sigma_data} must be above 0")
    if config.network.conditional and not config.data.classes:
        raise ValueError("network.conditional=True, but the data have no classes; use False, or labelled data")
    if config.network.label_dropout and not (config.network.conditional and config.network.label_dropout < 1):
        raise ValueError(
            f"network.label_dropout={config.network.label_dropout} is the share of labels dropped, in [0, 1), and "
            "needs network.conditional=True"
        )
    for name, values in {
        "sampler.steps": config.sampler.steps,
        "bound.paths": config.bound.paths,
        **{f"network.unet.{key}": config.network.unet[key] for key in ("multipliers", "attention", "fourier")},
        **{f"network.ncsnpp.{key}": config.network.ncsnpp[key] for key in ("multipliers", "attention", "taps")},
        "network.vdm.fourier": config.network.vdm.fourier,
    }.items():
        for value in values:
            if not isinstance(value, int):
                raise ValueError(f"{name}={tuple(values)}: {value!r} is not a whole number")
    for decay in config.ema.decays:
        if not isinstance(decay, float | int) or not 0 <= decay < 1:
            raise ValueError(f"ema.decays: {decay!r} is not a number in [0, 1)")
    if not (config.sampler.num_steps or config.process.num_steps or config.sampler.name == "dopri5"):
        raise ValueError("sampler.num_steps=0 means as many as the chain has, but process.num_steps=0; set it")
