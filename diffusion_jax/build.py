"""The wiring: the only file that turns a string of a config into a function.

Every choice is `section.name`, and the options of each possible choice live beside it under `section.<that name>`, so
one flag, `--config.schedule.name=cosine`, is an ablation. Everything is checked here, before anything compiles.
"""

import difflib
import functools
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
from diffusion_jax.networks.mlp import MLP
from diffusion_jax.networks.multiscale import MultiScale
from diffusion_jax.networks.rbf import RBF
from diffusion_jax.networks.sequence_mlp import SequenceMLP
from diffusion_jax.networks.unet import UNet
from diffusion_jax.objective import bound, decoders, losses, prediction, reverse, time_sampling
from diffusion_jax.process import learned, schedules
from diffusion_jax.process.base import Array, Level, Process, Schedule, in_float64
from diffusion_jax.process.binomial import binomial
from diffusion_jax.process.gaussian import gaussian
from diffusion_jax.sampling import ancestral, loop

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "unet": UNet,
    "mlp": MLP,
    "rbf": RBF,
    "sequence_mlp": SequenceMLP,
    "multiscale": MultiScale,
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
METHODS: dict[str, Callable[..., loop.Method]] = {"ancestral": ancestral.ancestral}
GRIDS: dict[str, Callable[[int, int], np.ndarray]] = {
    "uniform": loop.uniform_times,
    "inclusive": loop.inclusive_times,
    "strided": loop.strided_times,
    "to_first": loop.to_first_times,
}
SOURCES: dict[str, Callable[..., Source]] = {
    "digits": embedded.digits,
    "toy2d": embedded.toy2d,
    "heartbeat": heartbeat.heartbeat,
    "dead_leaves": dead_leaves.dead_leaves,
    "arrays": arrays.arrays,
    "folder": folder.folder,
    "tfds": tfds.tfds,
}
JUDGES: dict[str, Callable[[np.ndarray], dict[str, float]]] = {"heartbeat": heartbeat.count}
"""Of data sets whose every example is known: what can be counted in samples."""
LEARNED = ("learned_diagonal", "learned_range", "dpm2015_paper", "dpm2015_code")
"""Reverse variances that the network's head gives."""
BOUND_LOSSES = ("vlb", "hybrid", "K")
"""Losses with a term of a variational bound; the others are the weights of a squared error."""
NEED_CHAIN = "a chain: set process.num_steps to its number of steps, 1000 for example"


class Experiment(NamedTuple):
    """All the functions of a run, as its config asks for them; nothing in it holds parameters."""

    network: nn.Module
    schedule: Callable[[Any], Schedule]
    """`schedule(params) -> Schedule`; a fixed one ignores params."""
    process: Process
    predict: prediction.Predict
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
    if name not in schedules.CHAINS and name != "learned_betas":
        return factory(**options(config.schedule))
    if not steps:
        raise ValueError(f"schedule.name={name!r} needs {NEED_CHAIN}")
    return factory(steps, **options(config.schedule))


def at_first(config: ConfigDict) -> Schedule:
    """The schedule before training, for what a config can say without parameters."""
    return schedule(config, {"schedule": init_schedule(config, jax.random.key(config.seed))})(None)


def build(config: ConfigDict, params: Any = None) -> Experiment:
    """Turn a config, with `data.shape` filled in, into an Experiment. Raises ValueError where they do not fit.

    params: those of a trained run, which freeze a learned schedule; see `schedule`.
    """
    check(config)
    steps = config.process.num_steps
    process = choose("process.name", config.process.name, PROCESSES)(**options(config.process))
    check_process(config)
    path = schedule(config, params)

    variance = choose("prediction.variance", config.prediction.variance, reverse.VARIANCES)
    with_head = config.prediction.variance in LEARNED
    kernel = variance(process)

    *_, channels = config.data.shape
    network_options = options(config.network)
    if config.network.name == "unet":
        network_options["remat"] = config.remat
    if config.network.name in BY_STEP:
        network_options["num_steps"] = steps
        if config.network.told != "step":
            raise ValueError(f"network.name={config.network.name!r} reads out by the step: set network.told=step")
        if config.network.conditional:
            raise ValueError(f"network.name={config.network.name!r} takes no labels: set network.conditional=False")
    network = choose("network.name", config.network.name, NETWORKS)(
        out_channels=channels * (2 if with_head else 1),
        num_classes=config.data.classes if config.network.conditional else 0,
        **network_options,
    )

    aim = config.prediction.target
    for field, name in (("prediction.target", aim), ("network.told", config.network.told)):
        if name in (*OF_A_CHAIN, "step") and not steps:
            raise ValueError(f"{field}={name!r} needs {NEED_CHAIN}")
    target = choose("prediction.target", aim, TARGETS)
    target = target(steps) if aim in OF_A_CHAIN else target()
    tell = choose("network.told", config.network.told, TELLINGS)
    tell = tell(steps) if config.network.told == "step" else tell()
    if aim in ("eps", "score", "dpm2015_code", "dpm2015_paper") and not np.exp(
        in_float64(at_first(config), np.ones(()))[0]
    ):
        raise ValueError(
            f"prediction.target={aim!r}: with schedule.name={config.schedule.name!r} nothing of "
            "x0 is left at t = 1, where it cannot be found from the noise; use v, x0 or posterior_mean"
        )
    shape = prediction.attracted(steps) if aim == "dpm2015_paper" else None
    predict = prediction.predictor(network.apply, path, target, tell, with_head, shape)
    if config.process.name == "binomial":
        predict = prediction.bit_predictor(network.apply, tell)

    terms = loss_terms(config, process, path, target, kernel)
    loss = _in_model_range(losses.weighted_sum(predict, process, path, terms), into_range(config))
    times = choose("times.name", config.times.name, time_sampling.TIME_SAMPLERS)(
        steps, config.times.min_t, **options(config.times)
    )

    return Experiment(
        network=network,
        schedule=path,
        process=process,
        predict=predict,
        reverse=kernel,
        times=times,
        loss=loss,
        optimizer=optimizer(config.optimizer),
        sampler=sampler(config, process, path, predict, kernel),
    )


def loss_terms(
    config: ConfigDict,
    process: Process,
    path: Callable[[Any], Schedule],
    target: prediction.Target,
    kernel: reverse.Reverse,
) -> dict[str, tuple[float, losses.Term]]:
    """name -> (factor, term) of the loss. Raises ValueError where loss and reverse variance do not suit each other."""
    name, variance, steps = config.loss.name, config.prediction.variance, config.process.num_steps
    choose("loss.name", name, losses.WEIGHTS | dict.fromkeys(BOUND_LOSSES))
    if name in BOUND_LOSSES and not steps:
        raise ValueError(f"loss.name={name!r} needs {NEED_CHAIN}")
    if name == "K" and steps < 2:
        raise ValueError(f"loss.name='K' has T - 1 terms: process.num_steps={steps} must be at least 2")
    if name not in ("vlb", "K") and config.schedule.name in LEARNED_SCHEDULES:
        raise ValueError(
            f"schedule.name={config.schedule.name!r}: loss.name={name!r} does not train it; use loss.name=K or vlb"
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
    if name not in BOUND_LOSSES:
        weight = losses.WEIGHTS[name](**options(config.loss))
        return {"mse": (1.0, losses.weighted_mse(path, target, weight))}
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
    return grid_rows(config, process, path, loop.uniform_times(num_steps or chain, chain), denoise=True)


def grid_rows(
    config: ConfigDict, process: Process, path: Callable[[Any], Schedule], times: np.ndarray, denoise: bool
) -> Callable[[Any], Any]:
    """`rows(params)` of a grid: computed once, in float64 on the host, or of a learned schedule traced from params."""
    try:
        known = path(None)
    except ValueError:  # learned, and not frozen
        noisy = np.isfinite(in_float64(at_first(config), times[-1:])[1][0])
        return lambda params: loop.traced_rows(process, path(params), times, denoise and bool(noisy))
    fixed = loop.rows(process, known, times, denoise)
    return lambda params: fixed


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
    if not method.kernel and config.process.name != "gaussian":
        raise ValueError(
            f"sampler.name={config.sampler.name!r} needs the score of a Gaussian process, which process.name="
            f"{config.process.name!r} does not have; use sampler.name=ancestral"
        )
    chain = config.process.num_steps
    times = sampling_times(config.sampler, chain)
    if method.kernel and config.prediction.variance == "learned_diagonal" and len(times) - 1 != chain:
        raise ValueError(
            "prediction.variance='learned_diagonal' is that of single steps of the chain; leave sampler.num_steps=0 "
            "and report.sampler_steps=0, or use learned_range for fewer steps"
        )
    rows = grid_rows(config, process, path, times, config.sampler.denoise)
    if clips(config, config.sampler):
        predict = prediction.clip_x0(predict)
    shape = tuple(config.data.shape)

    def start(params: Any, seeds: Array) -> tuple[Array, Array]:
        keys_prior, keys = jnp.moveaxis(jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)))(seeds), 1, 0)
        return process.prior(path(params), keys_prior, shape), keys

    def labels(seeds: Array) -> Array | None:
        if not config.network.conditional:
            return None
        keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 1))(seeds)
        return jax.vmap(lambda key: jax.random.randint(key, (), 0, config.data.classes))(keys)

    def walk(
        params: Any, x: Array, memory: Any, keys: Array, rows: Any, first: Array | int = 0, label: Array | None = None
    ) -> tuple[Array, Any]:
        def bound(x: Array, level: Level) -> prediction.Prediction:
            return predict(params, x, level, label, None)

        return loop.sample(method.step, bound, kernel, rows, x, keys, memory, first)

    def guess(params: Any, x: Array, level: Level, label: Array | None = None) -> Array:
        each = jax.tree.map(lambda field: jnp.full(len(x), field, x.dtype), level)
        return predict(params, x, each, label, None).x0

    return loop.Sampler(rows, start, labels, method.memory, walk, guess)


def clips(config: ConfigDict, section: ConfigDict) -> bool:
    """Whether the predicted x0 is clipped, as config.sampler or config.bound says.

    Never for a network that predicts the posterior mean: that is taken as it is, and x0 only follows from it. Clipped,
    it would throw most of the mean away where one step tells little of x0. Source: the public code of Ho et al. 2020.
    """
    return section.clip_x0 and config.prediction.target != "posterior_mean"


def sampling_times(section: ConfigDict, chain: int) -> np.ndarray:
    """The falling time grid that config.sampler asks for."""
    if section.steps or section.grid != "uniform":
        choose("sampler.grid", section.grid, GRIDS)
        if not chain:
            raise ValueError(f"sampler.grid and sampler.steps need {NEED_CHAIN}")
    if section.steps:
        return loop.chosen_times(tuple(section.steps), chain)
    return choose("sampler.grid", section.grid, GRIDS)(section.num_steps or chain, chain)


def optimizer(section: ConfigDict) -> optax.GradientTransformation:
    """Adam with linear warm-up from 0 and clipping by the global norm of the averaged gradient (0 = no clipping).

    Ho's TensorFlow code clips per replica, before the average, and adds epsilon before the bias correction; both make
    the result depend on the number of devices or on the step in ways that are not meant, so neither is copied.
    """
    rate: Any = section.learning_rate
    if section.warmup_steps:
        rate = optax.linear_schedule(0.0, section.learning_rate, section.warmup_steps)
    adam = optax.adam(rate, b1=section.b1, b2=section.b2, eps=section.eps)
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
            raise ValueError(
                f"{clipped[0]}=True clips to [-1, 1], but data.mean, std or dequantise leave it; use False"
            )
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
        "optimizer.warmup_steps": 0, "optimizer.grad_clip": 0, "ema.ramp": 0, "times.min_t": 0, "sampler.num_steps": 0,
        "sampler.tile": 1, "bound.num_steps": 0, "checkpoint.every": 1, "checkpoint.keep": 1,
        "checkpoint.keep_every": 0, "report.every": 1, "report.samples_every": 0, "report.num_samples": 1,
        "report.sampler_steps": 0, "eval.every": 0, "eval.max_examples": 1, "eval.passes": 1,
        "eval.num_samples": 0, "data.workers": 0,
    }  # fmt: skip
    for name, least in at_least.items():
        value = functools.reduce(lambda node, key: node[key], name.split("."), config)
        if not value >= least:
            raise ValueError(f"{name}={value} must be at least {least}")
    if config.network.conditional and not config.data.classes:
        raise ValueError("network.conditional=True, but the data have no classes; use False, or labelled data")
    for name, values in {
        "sampler.steps": config.sampler.steps,
        **{f"network.unet.{key}": config.network.unet[key] for key in ("multipliers", "attention", "fourier")},
    }.items():
        for value in values:
            if not isinstance(value, int):
                raise ValueError(f"{name}={tuple(values)}: {value!r} is not a whole number")
    for decay in config.ema.decays:
        if not isinstance(decay, float | int) or not 0 <= decay < 1:
            raise ValueError(f"ema.decays: {decay!r} is not a number in [0, 1)")
    if not config.sampler.num_steps and not config.process.num_steps:
        raise ValueError("sampler.num_steps=0 means as many as the chain has, but process.num_steps=0; set it")
