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
import optax
from ml_collections import ConfigDict

from diffusion_jax.data import arrays, embedded, folder, tfds
from diffusion_jax.data.scaling import to_model
from diffusion_jax.data.source import Source
from diffusion_jax.networks.mlp import MLP
from diffusion_jax.networks.unet import UNet
from diffusion_jax.objective import losses, prediction, reverse, time_sampling
from diffusion_jax.process import schedules
from diffusion_jax.process.base import Array, Level, Process, Schedule
from diffusion_jax.process.gaussian import gaussian
from diffusion_jax.sampling import ancestral, loop

NETWORKS: dict[str, Callable[..., nn.Module]] = {"unet": UNet, "mlp": MLP}
PROCESSES: dict[str, Callable[..., Process]] = {"gaussian": gaussian}
SCHEDULES = schedules.CHAINS | schedules.CONTINUOUS
TARGETS: dict[str, Callable[..., prediction.Target]] = prediction.TARGETS | {
    "posterior_mean": prediction.posterior_mean
}
TELLINGS: dict[str, Callable[..., prediction.Telling]] = {
    "step": prediction.tell_step,
    "time": prediction.tell_time,
    "logsnr": prediction.tell_logsnr,
    "log_sigma": prediction.tell_log_sigma,
}
STEPS: dict[str, loop.Step] = {"ancestral": ancestral.ancestral}
SOURCES: dict[str, Callable[..., Source]] = {
    "digits": embedded.digits,
    "toy2d": embedded.toy2d,
    "arrays": arrays.arrays,
    "folder": folder.folder,
    "tfds": tfds.tfds,
}
NEED_CHAIN = "a chain: set process.num_steps to its number of steps, 1000 for example"


class Experiment(NamedTuple):
    """All the functions of a run, as its config asks for them; nothing in it holds parameters."""

    network: nn.Module
    schedule: Callable[[Any], Schedule]
    """`schedule(params) -> Schedule`; a fixed one ignores params."""
    process: Process
    predict: prediction.Predict
    reverse: reverse.Reverse
    sample_times: time_sampling.SampleTimes
    loss: losses.Loss
    """Takes batches as the data pipeline makes them (uint8, or float32 vectors)."""
    optimizer: optax.GradientTransformation
    sample: Callable[..., Array]
    """`sample(params, seeds uint32[B], label[B] or None) -> x0[B,*D]` in the model's range; row i depends on seed i."""


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


def resolve(config: ConfigDict, train: Source) -> ConfigDict:
    """The config with the shape, levels and classes of its data filled in, as a checkpoint keeps it."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.update(shape=train.shape, levels=train.levels, classes=train.classes)
    return config


def schedule(config: ConfigDict) -> Callable[[Any], Schedule]:
    """The function params -> Schedule of a config."""
    name, steps = config.schedule.name, config.process.num_steps
    factory = choose("schedule.name", name, SCHEDULES)
    if name not in schedules.CHAINS:
        fixed = factory(**options(config.schedule))
    elif steps:
        fixed = factory(steps, **options(config.schedule))
    else:
        raise ValueError(f"schedule.name={name!r} needs {NEED_CHAIN}")
    return lambda params: fixed


def build(config: ConfigDict) -> Experiment:
    """Turn a config, with `data.shape` filled in, into an Experiment. Raises ValueError where they do not fit."""
    check(config)
    steps = config.process.num_steps
    process = choose("process.name", config.process.name, PROCESSES)(**options(config.process))
    path = schedule(config)

    variance = choose("prediction.variance", config.prediction.variance, reverse.VARIANCES)
    with_head = config.prediction.variance.startswith("learned")
    if with_head:
        raise ValueError(
            f"prediction.variance={config.prediction.variance!r}: no loss of this config trains it; "
            "use fixed_small or fixed_large"
        )
    kernel = variance(process)

    *_, channels = config.data.shape
    network_options = options(config.network)
    if config.network.name == "unet":
        network_options["remat"] = config.remat
    network = choose("network.name", config.network.name, NETWORKS)(
        out_channels=channels * (2 if with_head else 1),
        num_classes=config.data.classes if config.network.conditional else 0,
        **network_options,
    )

    needs_chain = {"posterior_mean": TARGETS, "step": TELLINGS}
    for field, name in (("prediction.target", config.prediction.target), ("network.told", config.network.told)):
        if name in needs_chain and not steps:
            raise ValueError(f"{field}={name!r} needs {NEED_CHAIN}")
    target = choose("prediction.target", config.prediction.target, TARGETS)
    target = target(steps) if config.prediction.target == "posterior_mean" else target()
    tell = choose("network.told", config.network.told, TELLINGS)
    tell = tell(steps) if config.network.told == "step" else tell()
    predict = prediction.predictor(network.apply, path, target, tell, with_head)

    weight = choose("loss.name", config.loss.name, losses.WEIGHTS)(**options(config.loss))
    loss = _in_model_range(losses.weighted_mse(predict, process, path, target, weight), config.data.levels)
    sample_times = choose("times.name", config.times.name, time_sampling.TIME_SAMPLERS)(steps, config.times.min_t)

    return Experiment(
        network=network,
        schedule=path,
        process=process,
        predict=predict,
        reverse=kernel,
        sample_times=sample_times,
        loss=loss,
        optimizer=optimizer(config.optimizer),
        sample=sampler(config, process, path, predict, kernel),
    )


def _in_model_range(loss: losses.Loss, levels: int) -> losses.Loss:
    """`loss` on batches at rest: the one place where data become floats in [-1, 1]."""

    def on_data(params: Any, batch: dict[str, Array], *args: Any, **kwargs: Any) -> tuple[Array, dict[str, Array]]:
        return loss(params, batch | {"x0": to_model(batch["x0"], levels)}, *args, **kwargs)

    return on_data


def sampler(
    config: ConfigDict,
    process: Process,
    path: Callable[[Any], Schedule],
    predict: prediction.Predict,
    kernel: reverse.Reverse,
) -> Callable[..., Array]:
    """The function of `Experiment.sample`."""
    step = choose("sampler.name", config.sampler.name, STEPS)
    chain = config.process.num_steps
    steps = config.sampler.num_steps or chain
    times = loop.uniform_times(steps, chain)
    rows = loop.rows(process, path(None), times, config.sampler.denoise)
    if config.sampler.clip_x0:
        predict = prediction.clip_x0(predict)
    shape = tuple(config.data.shape)

    def sample(params: Any, seeds: Array, label: Array | None = None) -> Array:
        keys_prior, keys = jnp.moveaxis(jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)))(seeds), 1, 0)

        def bound(x: Array, level: Level) -> prediction.Prediction:
            return predict(params, x, level, label, None)

        x = process.prior(path(params), keys_prior, shape)
        return loop.sample(step, bound, kernel, rows, x, keys)

    return sample


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
    """Fresh parameters {"net": …}. The network checks the shape of the data here: ValueError."""
    x = jnp.zeros((1, *config.data.shape))
    label = jnp.zeros(1, jnp.int32)
    return {"net": jax.jit(network.init)(key, x, jnp.zeros(1), label, None)["params"]}


def parameters(config: ConfigDict, network: nn.Module) -> dict[str, Any]:
    """Shapes and dtypes of the parameters, computed without running or compiling anything."""
    return jax.eval_shape(functools.partial(init, config, network), jax.random.key(0))


def check(config: ConfigDict) -> None:
    """Raise ValueError for values that no choice of functions can make sense of."""
    if not config.data.shape:
        raise ValueError("data.shape is empty; set it, or open the data first, which fills it in")
    at_least = {
        "train_steps": 1, "batch_size": 1, "accumulate_steps": 1, "process.num_steps": 0, "optimizer.learning_rate": 0,
        "optimizer.warmup_steps": 0, "optimizer.grad_clip": 0, "ema.ramp": 0, "times.min_t": 0, "sampler.num_steps": 0,
        "sampler.tile": 1, "checkpoint.every": 1, "checkpoint.keep": 1, "checkpoint.keep_every": 0, "report.every": 1,
        "report.samples_every": 0, "report.num_samples": 1, "eval.every": 0, "eval.passes": 1, "data.workers": 0,
    }  # fmt: skip
    for name, least in at_least.items():
        value = functools.reduce(lambda node, key: node[key], name.split("."), config)
        if not value >= least:
            raise ValueError(f"{name}={value} must be at least {least}")
    for decay in config.ema.decays:
        if not 0 <= decay < 1:
            raise ValueError(f"ema.decays: {decay} is not in [0, 1)")
    if not config.sampler.num_steps and not config.process.num_steps:
        raise ValueError("sampler.num_steps=0 means as many as the chain has, but process.num_steps=0; set it")
