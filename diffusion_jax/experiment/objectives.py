"""The loss of a config, its terms, decoder and times."""

import inspect
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.experiment.choices import BOUND_LOSSES, CHAIN_NEEDED, LEARNED, choose, make, options
from diffusion_jax.experiment.paths import K_coefficients, chain_coefficients, initial_schedule, is_learned, schedule
from diffusion_jax.objective import bound, decoders, losses, prediction, reverse, time_sampling
from diffusion_jax.process.base import Process, in_float64
from diffusion_jax.process.learned import ModelSchedule

OF_A_CHAIN: dict[str, Callable[[int], prediction.Target]] = {
    "posterior_mean": prediction.posterior_mean,
    "dpm2015_code": prediction.dpm2015,
    "dpm2015_paper": prediction.dpm2015,
}
"""Parameterisations of the step to the level before."""


TARGETS: dict[str, Callable[..., prediction.Target]] = prediction.TARGETS | OF_A_CHAIN


def time_sampler(config: ConfigDict) -> time_sampling.TimeSampler:
    """Return the distribution of training times of config.times.

    Raises ValueError for a name or an option that does not exist, or one for continuous time on a chain.
    """
    steps, name = config.process.num_steps, config.times.name
    factory = choose("times.name", name, time_sampling.TIME_SAMPLERS)
    provided = {"num_steps": steps, "min_t": config.times.min_t}
    if "schedule" in inspect.signature(factory).parameters:
        if steps:
            raise ValueError(f"times.name={name!r} is for continuous time, but process.num_steps={steps}; set it to 0")
        provided["schedule"] = schedule(config)(None)
    made: time_sampling.TimeSampler = make(
        "times.name", name, time_sampling.TIME_SAMPLERS, options(config.times), **provided
    )
    return made


def loss_terms(
    config: ConfigDict,
    process: Process,
    path: ModelSchedule,
    target: prediction.Target,
    kernel: reverse.Reverse,
) -> dict[str, tuple[float, losses.Term]]:
    """name -> (factor, term) of the loss. Raises ValueError where loss and reverse variance do not suit each other."""
    name, variance, steps = config.loss.name, config.prediction.variance, config.process.num_steps
    choose("loss.name", name, losses.WEIGHTS | dict.fromkeys((*BOUND_LOSSES, "vdm", "cross_entropy")))
    choose("loss.reduction", config.loss.reduction, losses.REDUCTIONS)
    if name in BOUND_LOSSES and not steps:
        raise ValueError(f"loss.name={name!r} needs {CHAIN_NEEDED}")
    if name == "K" and steps < 2:
        raise ValueError(f"loss.name='K' has T - 1 terms: process.num_steps={steps} must be at least 2")
    if name not in ("vlb", "K", "vdm") and is_learned(config):
        raise ValueError(
            f"schedule.name={config.schedule.name!r}: loss.name={name!r} cannot train a learned schedule; use "
            "loss.name=K, vlb or vdm"
        )
    if name not in BOUND_LOSSES and variance in LEARNED:
        raise ValueError(
            f"prediction.variance={variance!r}: loss.name={name!r} cannot train a learned variance; use "
            "loss.name=hybrid or vlb, or prediction.variance=fixed_small or fixed_large"
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
        provided = {"sigma_data": config.prediction.sigma_data}
        if "schedule" in inspect.signature(choose("loss.name", name, losses.WEIGHTS)).parameters:
            provided["schedule"] = path(None)
        weight = make("loss.name", name, losses.WEIGHTS, options(config.loss), **provided)
        return {"mse": (1.0, losses.weighted_mse(path, target, weight, config.loss.reduction))}
    if name == "K":
        return {"K": (1.0, losses.K(process, kernel, path, K_coefficients(config, process, path), steps))}
    rows = chain_coefficients(config, process, path)
    vlb = losses.vlb(vlb_term(config, process, kernel), rows, steps, stop_mean=name == "hybrid")
    if name == "vlb":
        noisy = bool(np.isfinite(in_float64(initial_schedule(config), np.zeros(()))[1]))
        if not (noisy or is_learned(config)):
            return {"vlb": (1.0, vlb)}
        ends = losses.boundary_terms(process, path, decoder(config) if noisy else None)
        return {"vlb": (1.0, vlb), "ends": (1.0, ends)}
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
    if not np.isfinite(in_float64(initial_schedule(config), np.zeros(()))[1]):
        raise ValueError(
            f"loss.name='vdm' needs noise at t = 0, where schedule.name={config.schedule.name!r} has none; use "
            "linear_logsnr, ve or edm"
        )


def decoder(config: ConfigDict) -> decoders.Decoder:
    """The decoder of the bound. Raises ValueError if it does not suit the data."""
    made: decoders.Decoder = choose("bound.decoder", config.bound.decoder, decoders.DECODERS)(config.data.levels)
    return made


def vlb_term(config: ConfigDict, process: Process, kernel: reverse.Reverse) -> bound.StepTerm:
    """A step's term of the variational bound. Raises ValueError if the decoder does not suit the data."""
    if config.process.name == "binomial":
        return bound.kl_term(process, kernel)
    return bound.step_term(process, kernel, decoder(config))
