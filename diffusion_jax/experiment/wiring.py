"""Wiring: the functions of a run from its config.

Every choice is `section.name`, and the options of each possible choice live beside it under `section.<that name>`, so
one flag, `--config.schedule.name=cosine`, is an ablation. Everything is checked here, before anything compiles.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from diffusion_jax.data import augmentation
from diffusion_jax.declarations import facts_of
from diffusion_jax.experiment import generators, latents
from diffusion_jax.experiment.choices import choose, make, options, refuse
from diffusion_jax.experiment.guidances import GUIDANCES, by_classifier, check_guide, class_log_probs, other_run
from diffusion_jax.experiment.networks import classifier_network, conditioning, forward, input_scale, network
from diffusion_jax.experiment.objectives import (
    LOSSES,
    determines_x0,
    loss_facts,
    made_loss,
    made_target,
    target_facts,
    time_sampler,
)
from diffusion_jax.experiment.optimizers import Rate, learning_rate, optimizer
from diffusion_jax.experiment.paths import initial_schedule_params, schedule, variance_facts
from diffusion_jax.experiment.samplers import sampler
from diffusion_jax.experiment.sources import make_to_model
from diffusion_jax.experiment.validation import check, check_process
from diffusion_jax.networks import adapter
from diffusion_jax.networks.registry import NETWORKS
from diffusion_jax.objective import categorical, elbo, losses, mean_flow, prediction, reverse, time_sampling
from diffusion_jax.process.base import Array, Process
from diffusion_jax.process.binomial import BinomialProcess
from diffusion_jax.process.categorical import CategoricalProcess
from diffusion_jax.process.gaussian import GaussianProcess
from diffusion_jax.process.learned import ModelSchedule
from diffusion_jax.sampling import loop
from diffusion_jax.sampling.base import SamplerStep

PROCESSES: dict[str, Callable[..., Process]] = {
    "gaussian": GaussianProcess,
    "binomial": BinomialProcess,
    "categorical": CategoricalProcess,
}


Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Takes the forward pass of a network and returns a function of the same arguments."""


def identity(forward_pass: Callable[..., Any]) -> Callable[..., Any]:
    """Return the forward pass itself."""
    return forward_pass


class Experiment(NamedTuple):
    """Functions of a run, without parameters."""

    network: nn.Module
    schedule: ModelSchedule
    """`schedule(params) -> Schedule`; a fixed one ignores params."""
    process: Process
    predict: prediction.Denoiser
    guided: prediction.Denoiser
    """`predict` with the guidance of config.guidance, for the sampler."""
    reverse: reverse.Reverse
    times: time_sampling.TimeSampler
    to_model: Callable[[Array, Array], Array]
    """`to_model(x[B,*D] at rest, keys[B]) -> x0`: grey levels as floats in the model's range."""
    loss: losses.Loss
    """Takes batches whose x0 is in the model's range."""
    optimizer: optax.GradientTransformation
    learning_rate: Rate
    sampler: loop.Sampler
    terms: elbo.MakeTerms | None = None
    """Terms of the bound of an autoencoder."""


def build(
    config: ConfigDict,
    params: Any = None,
    wrap: Wrapper = identity,
    guide: ConfigDict | None = None,
) -> Experiment:
    """Turn a config, with `data.shape` filled in, into an Experiment. Raises ValueError where they do not fit.

    params: of a trained run, which freeze a learned schedule; see `schedule`. wrap: wraps the forward pass of
    the network, such as the counter of `count_calls`. guide: the config of the run that config.guidance names; its
    parameters are params["classifier"] or params["guide"].
    """
    check(config)
    if (autoencoder := latents.opened(config)) is not None:
        return latent(config, autoencoder, params, wrap, guide)
    if loss_facts(config).classifier:
        return classifier(config)
    if loss_facts(config).direct:
        return direct(config)
    steps = config.process.num_steps
    process = make_process(config)
    path = schedule(config, params)
    check_process(config, process)
    kernel = choose("prediction.variance", config.prediction.variance, reverse.VARIANCES)(process)

    *_, channels = config.data.shape
    of_network = facts_of(choose("network.name", config.network.name, NETWORKS))
    if of_network.classifier or of_network.direct:
        kind, instead = "a classifier", "cross_entropy"
        if of_network.direct:
            kind, instead = ("an autoencoder", "elbo") if of_network.autoencoder else ("a generator", "gan")
        raise ValueError(
            f"network.name={config.network.name!r}: is {kind}. Use loss.name={instead}, or another network"
        )
    with_head = variance_facts(config).head
    out_channels = channels * outputs_per_channel(config, process)
    net = adapter.adapt(network(config, out_channels), out_channels)

    facts, target, condition = target_facts(config), made_target(config), conditioning(config)
    if loss_facts(config).mean_velocity:
        net, condition = mean_flow.IntervalNetwork(net), mean_flow.interval_conditioning(condition)
    output, determined = facts.output(steps) if facts.output else None, determines_x0(config, target)
    predict = prediction.make_denoiser(
        wrap(forward(net)), path, target, condition, with_head, input_scale(config), output, determined
    )
    if isinstance(process, CategoricalProcess):
        net = categorical.StatesNetwork(net, process)
        predict = categorical.make_categorical_denoiser(wrap(forward(net)), process, condition)
    elif not process.gaussian:
        predict = prediction.make_bit_denoiser(wrap(forward(net)), condition)
    predict = prediction.drop_labels(predict, config.network.label_dropout)
    guided_predict = guided(config, predict, guide, wrap)

    loss = made_loss(config, process, path, target, kernel, predict)
    if config.data.augment:
        loss = losses.augmented(loss, functools.partial(augmentation.augment, probability=config.data.augment))
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


def make_process(config: ConfigDict) -> Process:
    """Return the forward process of a config."""
    provided = {"num_levels": config.data.levels}
    made: Process = make("process.name", config.process.name, PROCESSES, options(config.process), **provided)
    return made


def outputs_per_channel(config: ConfigDict, process: Process) -> int:
    """Return how many output channels the network has for each channel of the data."""
    if isinstance(process, CategoricalProcess):
        return process.num_levels
    return 2 if variance_facts(config).head else 1


def classifier(config: ConfigDict) -> Experiment:
    """Return the Experiment of a classifier of noisy examples. The classifier is trained, and used for guidance."""
    loss = f"loss.name={config.loss.name!r}"
    refuse(
        (config.network.conditional, f"{loss}: a classifier takes no label. Set network.conditional=False"),
        (not config.data.classes, f"{loss}: a classifier needs labels, but the data have no classes"),
        (config.report.samples_every, f"{loss}: a classifier makes no samples. Set report.samples_every=0"),
    )
    process = make_process(config)
    path, net = schedule(config), classifier_network(config)
    inputs = jnp.zeros((1, *config.data.shape)), jnp.zeros(1)
    logits = jax.eval_shape(net.apply, jax.eval_shape(net.init, jax.random.key(0), *inputs), *inputs)
    if logits.shape != (1, config.data.classes):
        raise ValueError(
            f"{loss}: network.name={config.network.name!r} returns {logits.shape[1:]} per example, but a classifier "
            f"({config.data.classes},). Use encoder for images, mlp for vectors"
        )
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
        loss=make(
            "loss.name",
            config.loss.name,
            LOSSES,
            options(config.loss),
            log_probs=log_probs,
            process=process,
            schedule=path,
        ),
        optimizer=optimizer(config),
        learning_rate=learning_rate(config),
        sampler=loop.Sampler(process, path, none, None, SamplerStep(none), none, tuple(config.data.shape)),
    )


def latent(
    config: ConfigDict,
    autoencoder: latents.Autoencoder,
    params: Any = None,
    wrap: Wrapper = identity,
    guide: ConfigDict | None = None,
) -> Experiment:
    """Return the Experiment of a model of latents, whose samples `latents.decoded` decodes. Arguments as of `build`."""
    latents.check(config, autoencoder)
    inner = latents.inside(config, autoencoder)
    made = build(inner, params, wrap, guide if guide is None else latents.inside(guide, autoencoder))
    absent: Any = generators.NoDenoiser(
        f"latent.workdir={config.latent.workdir}: this run is a model of latents, whose noise and likelihood are not "
        "those of the data. Use sample, or evaluate with --metrics"
    )
    parts: dict[str, Any] = dict.fromkeys(("process", "schedule", "predict", "guided", "reverse"), absent)
    return made._replace(to_model=latents.encoder(config, autoencoder), terms=None, **parts)


def direct(config: ConfigDict) -> Experiment:
    """Return the Experiment of an autoencoder or a GAN. These draw samples in one network call."""
    made = generators.generator(config)
    return Experiment(
        network=made.network,
        schedule=made.absent,
        process=made.absent,
        predict=made.absent,
        guided=made.absent,
        reverse=made.absent,
        times=time_sampling.uniform(1),
        to_model=make_to_model(config),
        loss=made.loss,
        optimizer=optimizer(config),
        learning_rate=learning_rate(config),
        sampler=made.sampler,
        terms=made.terms,
    )


def guided(
    config: ConfigDict, predict: prediction.Denoiser, guide: ConfigDict | None, wrap: Wrapper = identity
) -> prediction.Denoiser:
    """Return `predict` with the guidance of config.guidance. Raises ValueError where model, guide and scale do not fit.

    guide, wrap: see `build`; a worse model is counted with its network, a classifier is not.
    """
    section, conditional, dropout = config.guidance, config.network.conditional, config.network.label_dropout
    name, interval, other = section.name, tuple(section.interval_t), other_run(config)
    takes_label = facts_of(choose("guidance.name", name, GUIDANCES)).takes_label
    refuse(
        (
            len(interval) != 2 or not 0 <= interval[0] < interval[-1] <= 1,
            f"guidance.interval_t={interval} must be two times that rise, in [0, 1]",
        ),
        (not 0 <= section.rescale <= 1, f"guidance.rescale={section.rescale} must lie in [0, 1]"),
        (
            takes_label and not (conditional and dropout),
            f"guidance.name={name!r}: needs a model trained with and without labels, network.conditional=True and "
            f"network.label_dropout > 0 (got {conditional}, {dropout})",
        ),
        (
            other and guide is None,
            f"guidance.name={name!r}: takes another run, when sampling. Use --guidance.name={name} "
            f"--guidance.{other}.workdir=DIR",
        ),
    )
    provided = {"scale": float(section.scale), "interval_t": interval, "rescale": section.rescale}
    taken = inspect.signature(choose("guidance.name", name, GUIDANCES)).parameters
    for key, off in {"interval_t": (0, 1), "rescale": 0}.items():
        if key not in taken and provided[key] != off:
            raise ValueError(
                f"guidance.{key}={provided[key]}: has no meaning with guidance.name={name!r}. Leave it at {off}"
            )
    if guide is not None and other:
        check_guide(config, guide)
        if by_classifier(config):
            provided["log_probs"] = class_log_probs(guide, classifier_network(guide))
        else:
            provided["worse"] = build(guide, wrap=wrap).predict
    made: prediction.Denoiser = make("guidance.name", name, GUIDANCES, {}, predict=predict, **provided)
    return made


def count_calls(config: ConfigDict, params: Any, guide: ConfigDict | None = None) -> int:
    """Count the network calls of a sample (NFE).

    Every network call of the sampler is replaced by zeros of the output's shape, which follows from the shapes of
    `params`. A call for a batch, as guidance may make, counts as many times as it has rows. Where the calls depend on
    the output (dopri5), the network itself runs, and the result is the mean over seeds 0 to 7.
    """
    built = build(config, guide=guide)
    if built.sampler.method.direct:
        return 1
    adaptive = built.sampler.method.adaptive
    calls = 0

    def tick(rows: int) -> None:
        nonlocal calls
        calls += int(rows)

    def counting(forward_pass: Callable[..., Any]) -> Callable[..., Any]:
        def counted(variables: Any, x: Array, *others: Any) -> Any:
            jax.debug.callback(tick, len(x))
            if adaptive:
                return forward_pass(variables, x, *others)
            outputs = jax.eval_shape(forward_pass, variables, x, *others)
            return jax.tree.map(lambda output: jnp.zeros(output.shape, output.dtype), outputs)

        return counted

    sample = jax.jit(build(config, params, counting, guide).sampler.sample)
    seeds = jnp.arange(8 if adaptive else 1, dtype=jnp.uint32)
    for seed in seeds:
        jax.block_until_ready(sample(params, seed[None]))  # type: ignore[no-untyped-call]
    jax.effects_barrier()  # type: ignore[no-untyped-call]
    return round(calls / len(seeds))


def init(config: ConfigDict, network: nn.Module, key: Array) -> dict[str, Any]:
    """Return fresh parameters {"net": …, and "schedule": … if it is learned}.

    The network checks the shape of the data here: ValueError.
    """
    config = latents.inside(config, latents.opened(config))
    x = jnp.zeros((1, *config.data.shape))
    label = jnp.zeros(1, jnp.int32)
    net = jax.jit(network.init)(key, x, jnp.zeros(1), label, None)["params"]
    of_schedule = None if loss_facts(config).direct else initial_schedule_params(config, key)
    return {"net": net} | ({"schedule": of_schedule} if of_schedule is not None else {})


def parameters(config: ConfigDict, network: nn.Module) -> dict[str, Any]:
    """Return shapes and dtypes of the parameters, without running or compiling anything."""
    shapes: dict[str, Any] = jax.eval_shape(functools.partial(init, config, network), jax.random.key(0))
    return shapes
