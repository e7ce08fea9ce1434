"""The wiring: the only room that turns a string of a config into a function.

Every choice is `section.name`, and the options of each possible choice live beside it under `section.<that name>`, so
one flag, `--config.schedule.name=cosine`, is an ablation. Everything is checked here, before anything compiles.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from diffusion_jax.experiment.choices import LEARNED, choose, make, options
from diffusion_jax.experiment.guidances import CLASSIFIERS, GUIDANCES, check_guide, class_log_probs
from diffusion_jax.experiment.networks import conditioning, forward, input_scale, network
from diffusion_jax.experiment.objectives import TARGETS, loss_terms, time_sampler
from diffusion_jax.experiment.optimizers import Rate, learning_rate, optimizer
from diffusion_jax.experiment.paths import (
    initial_schedule,
    initial_schedule_params,
    schedule,
)
from diffusion_jax.experiment.samplers import sampler
from diffusion_jax.experiment.sources import (
    make_to_model,
)
from diffusion_jax.experiment.validation import check, check_process
from diffusion_jax.networks import adapter
from diffusion_jax.networks.registry import NETWORKS
from diffusion_jax.objective import losses, prediction, reverse, time_sampling
from diffusion_jax.process.base import Array, Process, in_float64
from diffusion_jax.process.binomial import BinomialProcess
from diffusion_jax.process.gaussian import GaussianProcess
from diffusion_jax.process.learned import ModelSchedule
from diffusion_jax.sampling import guidance, loop
from diffusion_jax.sampling.base import SamplerStep

PROCESSES: dict[str, Callable[..., Process]] = {"gaussian": GaussianProcess, "binomial": BinomialProcess}


class Experiment(NamedTuple):
    """All the functions of a run, as its config asks for them; nothing in it holds parameters."""

    network: nn.Module
    schedule: ModelSchedule
    """`schedule(params) -> Schedule`; a fixed one ignores params."""
    process: Process
    predict: prediction.Denoiser
    guided: prediction.Denoiser
    """`predict` with the guidance that config.guidance asks for, as the sampler takes it."""
    reverse: reverse.Reverse
    times: time_sampling.TimeSampler
    to_model: Callable[[Array, Array], Array]
    """`to_model(x[B,*D] at rest, keys[B]) -> x0`: grey levels as floats in the model's range."""
    loss: losses.Loss
    """Takes batches whose x0 is in the model's range."""
    optimizer: optax.GradientTransformation
    learning_rate: Rate
    sampler: loop.Sampler


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
    process = make("process.name", config.process.name, PROCESSES, options(config.process))
    check_process(config)
    path = schedule(config, params)

    variance = choose("prediction.variance", config.prediction.variance, reverse.VARIANCES)
    with_head = config.prediction.variance in LEARNED
    kernel = variance(process)

    *_, channels = config.data.shape
    if config.network.name == "encoder":
        raise ValueError(
            "network.name='encoder' is a classifier, not a denoiser; use loss.name=cross_entropy, or another network"
        )
    out_channels = channels * (2 if with_head else 1)
    net = adapter.adapt(network(config, out_channels), out_channels)

    aim = config.prediction.target
    target = make("prediction.target", aim, TARGETS, {}, num_steps=steps, sigma_data=config.prediction.sigma_data)
    tell = conditioning(config)
    if aim in ("eps", "score", "dpm2015_code", "dpm2015_paper") and not np.exp(
        in_float64(initial_schedule(config), np.ones(()))[0]
    ):
        raise ValueError(
            f"prediction.target={aim!r}: with schedule.name={config.schedule.name!r} nothing of "
            "x0 is left at t = 1, where it cannot be found from the noise; use v, x0 or posterior_mean"
        )
    shape = prediction.dpm2015_paper_output(steps) if aim == "dpm2015_paper" else None
    predict = prediction.make_denoiser(apply or forward(net), path, target, tell, with_head, input_scale(config), shape)
    if config.process.name == "binomial":
        predict = prediction.make_bit_denoiser(apply or forward(net), tell)
    predict = prediction.drop_labels(predict, config.network.label_dropout)
    guided_predict = guided(config, predict, guide, apply)

    terms = loss_terms(config, process, path, target, kernel)
    loss = losses.weighted_sum(predict, process, path, terms)

    return Experiment(
        network=net,
        schedule=path,
        process=process,
        predict=predict,
        guided=guided_predict,
        reverse=kernel,
        times=time_sampler(config),
        to_model=make_to_model(config),
        loss=loss,
        optimizer=optimizer(config),
        learning_rate=learning_rate(config),
        sampler=sampler(config, process, path, guided_predict, kernel),
    )


def classifier(config: ConfigDict) -> Experiment:
    """The Experiment of loss.name=cross_entropy, a classifier of noisy examples: to train, and to guide by."""
    choose("network.name", config.network.name, NETWORKS)
    if config.network.name not in CLASSIFIERS or config.network.conditional:
        raise ValueError("loss.name='cross_entropy' needs network.name=encoder, or mlp for vectors, not conditional")
    if not config.data.classes:
        raise ValueError("loss.name='cross_entropy' learns the class, but the data have no classes; use labelled data")
    if config.report.samples_every:
        raise ValueError("loss.name='cross_entropy' makes no samples to report; set report.samples_every=0")
    process = make("process.name", config.process.name, PROCESSES, options(config.process))
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
        to_model=make_to_model(config),
        loss=losses.cross_entropy(log_probs, process, path),
        optimizer=optimizer(config),
        learning_rate=learning_rate(config),
        sampler=loop.Sampler(process, path, none, None, SamplerStep(none), none, tuple(config.data.shape)),
    )


def guided(
    config: ConfigDict, predict: prediction.Denoiser, guide: ConfigDict | None, apply: Callable[..., Any] | None = None
) -> prediction.Denoiser:
    """`predict` with the guidance of config.guidance. Raises ValueError where model, guide and scale do not fit.

    guide, apply: see `build`; a worse model is counted with its network, a classifier is not.
    """
    section = config.guidance
    name, scale, interval = section.name, float(section.scale), tuple(section.interval_t)
    choose("guidance.name", name, dict.fromkeys(GUIDANCES))
    if len(interval) != 2 or not 0 <= interval[0] < interval[1] <= 1:
        raise ValueError(f"guidance.interval_t={interval} must be (start, end) with 0 <= start < end <= 1")
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


def count_calls(config: ConfigDict, params: Any, guide: ConfigDict | None = None) -> int:
    """Return the number of network calls (NFE) per sample, counted while the sampler runs.

    The network is replaced by a function that returns 0; a call for a batch of B rows, as guidance may make, counts B
    times. For adaptive samplers (dopri5), whose calls depend on the outputs, the real network runs, and the number is
    the mean over seeds 0 to 7.
    """
    built = build(config, guide=guide)
    adaptive, network = built.sampler.method.adaptive, built.network
    calls = 0

    def tick(rows: int) -> None:
        nonlocal calls
        calls += int(rows)

    def answer(variables: Any, x: Array, *told: Any) -> Any:
        jax.debug.callback(tick, len(x))
        if adaptive:
            return forward(network)(variables, x, *told)
        twice = config.prediction.variance in LEARNED
        return jnp.zeros((*x.shape[:-1], x.shape[-1] * (2 if twice else 1)), x.dtype)

    sample = jax.jit(build(config, params, answer, guide).sampler.sample)
    seeds = jnp.arange(8 if adaptive else 1, dtype=jnp.uint32)
    for seed in seeds:
        jax.block_until_ready(sample(params, seed[None]))  # type: ignore[no-untyped-call]
    jax.effects_barrier()  # type: ignore[no-untyped-call]
    return round(calls / len(seeds))


def init(config: ConfigDict, network: nn.Module, key: Array) -> dict[str, Any]:
    """Fresh parameters {"net": …, and "schedule": … if it is learned}.

    The network checks the shape of the data here: ValueError.
    """
    x = jnp.zeros((1, *config.data.shape))
    label = jnp.zeros(1, jnp.int32)
    net = jax.jit(network.init)(key, x, jnp.zeros(1), label, None)["params"]
    of_schedule = initial_schedule_params(config, key)
    return {"net": net} | ({"schedule": of_schedule} if of_schedule is not None else {})


def parameters(config: ConfigDict, network: nn.Module) -> dict[str, Any]:
    """Shapes and dtypes of the parameters, computed without running or compiling anything."""
    shapes: dict[str, Any] = jax.eval_shape(functools.partial(init, config, network), jax.random.key(0))
    return shapes
