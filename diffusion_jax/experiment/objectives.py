"""Loss of a config: its terms, its decoder and its times.

A loss is a factory of the weight of a squared error, or of terms {name: (factor, term)} made from its parameter
`setting`, a `Setting`.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.data.scaling import is_plain
from diffusion_jax.declarations import Facts, declare, facts_of
from diffusion_jax.experiment.choices import CHAIN_NEEDED, choose, make, options, refuse
from diffusion_jax.experiment.paths import (
    K_coefficients,
    chain_coefficients,
    initial_schedule,
    is_learned,
    schedule,
    variance_facts,
)
from diffusion_jax.objective import (
    bound,
    categorical,
    decoders,
    elbo,
    gan,
    losses,
    mean_flow,
    prediction,
    reverse,
    targets,
    time_sampling,
)
from diffusion_jax.process.base import Array, Process, Schedule, in_float64, level
from diffusion_jax.process.categorical import CategoricalProcess
from diffusion_jax.process.learned import ModelSchedule

Terms = dict[str, tuple[float, losses.Term]]


class Setting(NamedTuple):
    """Parts of an experiment that the terms of a loss are made from."""

    config: ConfigDict
    process: Process
    schedule: ModelSchedule
    target: targets.Target
    kernel: reverse.Reverse

    def vlb(self, stop_mean: bool = False) -> losses.Term:
        """Return the term `losses.vlb` of the steps of the chain."""
        rows = chain_coefficients(self.config, self.process, self.schedule)
        if self.process.gaussian:
            self.decoder()
        step_term = vlb_term(self.config, self.process, self.kernel)
        return losses.vlb(step_term, rows, self.config.process.num_steps, stop_mean)

    def decoder(self) -> decoders.Decoder:
        """Return `data_decoder` of the config."""
        return data_decoder(self.config)


@declare(chain=True, trains_variance=True, trains_schedule=True)
def vlb(*, setting: Setting) -> Terms:
    """Variational bound of a chain, with boundary terms where they are not constant."""
    terms = {"vlb": (1.0, setting.vlb())}
    noisy = noisy_at_0(setting.config)
    if noisy or setting.schedule.fixed is None:
        decode = setting.decoder() if noisy else None
        terms["ends"] = 1.0, losses.boundary_terms(setting.process, setting.schedule, decode)
    return terms


@declare(chain=True, trains_variance=True, head=True, gaussian=True)
def hybrid(factor: float = 0.001, *, setting: Setting) -> Terms:
    """L_simple, and `factor` times the bound for the variance. Reference: Nichol and Dhariwal 2021, eq. 16."""
    mse = losses.weighted_mse(setting.schedule, setting.target, losses.simple(), setting.config.loss.reduction)
    return {"mse": (1.0, mse), "vlb": (factor, setting.vlb(stop_mean=True))}


@declare(chain=True, trains_variance=True, trains_schedule=True)
def K(*, setting: Setting) -> Terms:
    """Bound K of Sohl-Dickstein et al. 2015."""
    steps = setting.config.process.num_steps
    refuse((steps < 2, f"loss.name='K': has T - 1 terms (got process.num_steps={steps}). Use at least 2 steps"))
    rows = K_coefficients(setting.config, setting.process, setting.schedule)
    return {"K": (1.0, losses.K(setting.process, setting.kernel, setting.schedule, rows, steps))}


@declare(continuous=True, trains_schedule=True, gaussian=True)
def vdm(*, setting: Setting) -> Terms:
    """Variational bound in continuous time. Reference: Kingma et al. 2021."""
    refuse(
        (
            not noisy_at_0(setting.config),
            "loss.name='vdm': needs noise at t = 0, where schedule.name="
            f"{setting.config.schedule.name!r} has none. Use linear_logsnr, ve or edm",
        )
    )
    terms = losses.vdm(setting.process, setting.schedule, setting.decoder())
    return {name: (1.0, term) for name, term in terms.items()}


@declare(continuous=True)
def masked(*, setting: Setting) -> Terms:
    """Variational bound of masked diffusion in continuous time. Reference: Shi et al. 2024 (MD4), section 3."""
    process, name = setting.process, setting.config.process.name
    if not (isinstance(process, CategoricalProcess) and process.masks):
        raise ValueError(
            f"loss.name='masked': needs values that are masked (got process.name={name!r}). Use process.name="
            "categorical with process.categorical.noise=absorbing"
        )
    return {"masked": (1.0, categorical.masked_bound(process, setting.schedule))}


LOSSES: dict[str, Callable[..., Any]] = {
    **losses.WEIGHTS,
    "vlb": vlb,
    "hybrid": hybrid,
    "vdm": vdm,
    "K": K,
    "masked": masked,
    "mean_flow": mean_flow.mean_flow,
    "cross_entropy": losses.cross_entropy,
    "elbo": elbo.elbo,
    "gan": gan.gan,
}
"""Losses by name: factories of weights, of terms, and of the losses of models that are no denoisers."""


def loss_facts(config: ConfigDict) -> Facts:
    """Return the facts that the loss of a config declares."""
    return facts_of(choose("loss.name", config.loss.name, LOSSES))


def target_facts(config: ConfigDict) -> Facts:
    """Return the facts that the target of a config declares."""
    return facts_of(choose("prediction.target", config.prediction.target, targets.TARGETS))


def made_target(config: ConfigDict) -> targets.Target:
    """Return the target of a config."""
    name, provided = config.prediction.target, {"num_steps": config.process.num_steps}
    provided["sigma_data"] = config.prediction.sigma_data
    made: targets.Target = make("prediction.target", name, targets.TARGETS, {}, **provided)
    return made


def determines_x0(config: ConfigDict, target: targets.Target) -> bool:
    """Return True if alpha x0 + sigma eps = x_t and the target have a solution at t = 1."""
    path = initial_schedule(config)

    def determinant(t: Array) -> Array:
        at = level(path, t)
        a, b = target(path, at)
        return at.alpha * b - at.sigma * a

    return bool(np.exp(in_float64(path, np.ones(()))[0]) or in_float64(determinant, np.ones(1))[0])


def noisy_at_0(config: ConfigDict) -> bool:
    """Return True if the schedule of a config has noise at t = 0."""
    return bool(np.isfinite(in_float64(initial_schedule(config), np.zeros(()))[1]))


def time_sampler(config: ConfigDict) -> time_sampling.TimeSampler:
    """Return the time distribution of training."""
    steps, name = config.process.num_steps, config.times.name
    factory = choose("times.name", name, time_sampling.TIME_SAMPLERS)
    provided = {"num_steps": steps, "min_t": config.times.min_t}
    if "schedule" in inspect.signature(factory).parameters:
        if steps:
            raise ValueError(
                f"times.name={name!r}: is for continuous time (got process.num_steps={steps}). Set it to 0"
            )
        provided["schedule"] = schedule(config)(None)
    made: time_sampling.TimeSampler = make(
        "times.name", name, time_sampling.TIME_SAMPLERS, options(config.times), **provided
    )
    return made


def made_loss(
    config: ConfigDict,
    process: Process,
    path: ModelSchedule,
    target: targets.Target,
    kernel: reverse.Reverse,
    predict: prediction.Denoiser,
) -> losses.Loss:
    """Return the loss of a denoiser. Raises ValueError where loss and model do not fit."""
    if not loss_facts(config).mean_velocity:
        terms = loss_terms(config, process, path, target, kernel)
        return losses.weighted_sum(predict, process, path, terms)
    check_loss(config, process)
    start, times = initial_schedule(config), np.linspace(0, 1, 65)
    found, (a, b) = in_float64(lambda t: (level(start, t), target(start, level(start, t))), times)
    straight = np.allclose(np.exp(found.log_alpha) + np.exp(found.log_sigma), 1) and np.all(a == -1) and np.all(b == 1)
    refuse(
        (
            not straight or config.process.num_steps,
            f"loss.name={config.loss.name!r}: needs the straight path in continuous time. Use process.num_steps=0, "
            "schedule.name=rectified_flow and prediction.target=velocity",
        )
    )
    provided = {"predict": predict, "process": process, "schedule": path}
    made: losses.Loss = make("loss.name", config.loss.name, LOSSES, options(config.loss), **provided)
    return made


def loss_terms(
    config: ConfigDict, process: Process, path: ModelSchedule, target: targets.Target, kernel: reverse.Reverse
) -> Terms:
    """Return {name: (factor, term)} of the loss. Raises ValueError where loss and model do not fit."""
    check_loss(config, process)
    provided = {"sigma_data": config.prediction.sigma_data, "setting": Setting(config, process, path, target, kernel)}
    if path.fixed is not None:
        provided["schedule"] = path.fixed
    made = make("loss.name", config.loss.name, LOSSES, options(config.loss), **provided)
    if not determines_x0(config, target):
        start = initial_schedule(config)
        at_end = None if isinstance(made, dict) else in_float64(lambda t: _weight(made, target, start, t), np.ones(1))
        refuse(
            (
                at_end is None or not np.isfinite(at_end).all(),
                f"prediction.target={config.prediction.target!r}: x0 cannot be found from it at t = 1, where schedule."
                f"name={config.schedule.name!r} has no signal left, and loss.name={config.loss.name!r} needs it. Use "
                "loss.name=simple, or prediction.target=v, velocity or x0",
            )
        )
    if isinstance(made, dict):
        return made
    if not process.gaussian:
        raise ValueError(
            f"loss.name={config.loss.name!r}: is an error of the noise (got process.name={config.process.name!r}). "
            + (
                "Use loss.name=masked"
                if process.masks and not config.process.num_steps
                else _use(lambda facts: facts.trains_variance and not facts.gaussian)
            )
        )
    return {"mse": (1.0, losses.weighted_mse(path, target, made, config.loss.reduction))}


def _weight(weight: losses.Weight, target: targets.Target, schedule: Schedule, t: Array) -> Array:
    """Return the weight of a target's squared error at times t [B]."""
    at = level(schedule, t)
    return weight(at, target(schedule, at))


def check_loss(config: ConfigDict, process: Process) -> None:
    """Raise ValueError where the loss does not suit process, schedule, times or variance."""
    facts, variance, times, steps = loss_facts(config), variance_facts(config), config.times, config.process.num_steps
    choose("loss.reduction", config.loss.reduction, losses.REDUCTIONS)
    loss, asked = f"loss.name={config.loss.name!r}", f"prediction.variance={config.prediction.variance!r}"
    bounds, heads = (
        _use(lambda facts: facts.trains_variance),
        [n for n, k in reverse.VARIANCES.items() if facts_of(k).head],
    )
    weighs = facts_of(choose("times.name", times.name, time_sampling.TIME_SAMPLERS)).weighs_times
    refuse(
        (facts.chain and not steps, f"{loss} needs {CHAIN_NEEDED}"),
        (
            is_learned(config) and not facts.trains_schedule,
            f"{loss}: does not train schedule.name={config.schedule.name!r}. {_use(lambda f: f.trains_schedule)}",
        ),
        (
            variance.head and not facts.trains_variance,
            f"{loss}: does not train {asked}. {bounds}, or prediction.variance=fixed_small or fixed_large",
        ),
        (
            facts.head and not variance.head,
            f"{loss}: trains a learned variance (got {asked}). Use {', '.join(heads)}, or loss.name=simple",
        ),
        (
            facts.gaussian and not process.gaussian,
            f"{loss}: needs Gaussian noise (got process.name={config.process.name!r}). Use loss.name=vlb or K",
        ),
        (
            facts.continuous and steps,
            f"{loss}: is for continuous time (got process.num_steps={steps}). Set it to 0, or use loss.name=vlb",
        ),
        (
            facts.continuous and (times.min_t or weighs),
            f"{loss}: needs all t in [0, 1] alike (got times.name={times.name!r}, times.min_t={times.min_t}). Use "
            "times.name=low_discrepancy and times.min_t=0",
        ),
    )


def _use(fits: Callable[[Facts], bool]) -> str:
    """Return "Use loss.name=…" with the losses whose facts fit."""
    return f"Use loss.name={', '.join(name for name, factory in LOSSES.items() if fits(facts_of(factory)))}"


def decoder(config: ConfigDict) -> decoders.Decoder:
    """Return the decoder of the bound. Raises ValueError where it does not suit the data."""
    made: decoders.Decoder = choose("bound.decoder", config.bound.decoder, decoders.DECODERS)(config.data.levels)
    return made


def data_decoder(config: ConfigDict) -> decoders.Decoder:
    """Return the decoder of the bound. Raises ValueError where it does not suit the data or their range."""
    made = decoder(config)
    real = facts_of(choose("bound.decoder", config.bound.decoder, decoders.DECODERS)).real
    refuse(
        (
            not real and not is_plain(config.data),
            f"bound.decoder={config.bound.decoder!r}: is for [-1, 1], but data.mean, std or dequantise "
            "leave it. Use bound.decoder=density, or loss.name=K",
        )
    )
    return made


def vlb_term(config: ConfigDict, process: Process, kernel: reverse.Reverse) -> bound.StepTerm:
    """Return the term of a step of the bound. Raises ValueError where the decoder does not suit the data."""
    if not process.gaussian:
        return bound.kl_term(process, kernel)
    return bound.step_term(process, kernel, decoder(config))
