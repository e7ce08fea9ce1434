"""Sampler of a config, and its grid."""

import inspect
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.experiment.choices import CHAIN_NEEDED, choose, make, options
from diffusion_jax.experiment.guidances import uses_label
from diffusion_jax.experiment.networks import conditioning
from diffusion_jax.experiment.objectives import determines_x0, loss_facts, made_target, target_facts
from diffusion_jax.experiment.paths import (
    check_single_steps,
    grid_coefficients,
    has_signal,
    initial_schedule,
    lowest_time,
)
from diffusion_jax.objective import prediction, reverse
from diffusion_jax.process.base import Array, Process, in_float64, level
from diffusion_jax.process.learned import ModelSchedule
from diffusion_jax.sampling import grids, loop
from diffusion_jax.sampling.base import starting
from diffusion_jax.sampling.registry import SAMPLERS

SCALE_RTOL = 0.05
"""Relative difference in scale at most between x_t at the first time and the noise that samples start from."""


def sampler(
    config: ConfigDict,
    process: Process,
    path: ModelSchedule,
    predict: prediction.Denoiser,
    kernel: reverse.Reverse,
) -> loop.Sampler:
    """Return the sampler of config.sampler. Raises ValueError where process, schedule or variance do not suit it."""
    method = make(
        "sampler.name",
        config.sampler.name,
        SAMPLERS,
        options(config.sampler),
        draw=process.draw,
        draws_x0=process.draws_x0,
    )
    method = starting(method, initial_schedule(config))
    if method.direct:
        raise ValueError(
            f"sampler.name={config.sampler.name!r}: is for models without noise levels, but loss.name="
            f"{config.loss.name!r} trains a denoiser. Use ancestral, ddim or dpmpp_2m"
        )
    if method.needs_score and not process.gaussian:
        raise ValueError(
            f"sampler.name={config.sampler.name!r} needs the score of a Gaussian process, which process.name="
            f"{config.process.name!r} does not have; use sampler.name=ancestral"
        )
    chain = config.process.num_steps
    times = adaptive_times(config, path) if method.adaptive else sampling_times(config, path)
    on_levels = chain and np.allclose(times * chain, np.round(times * chain), atol=1e-6)
    if target_facts(config).chain and (method.between_levels or not on_levels):
        raise ValueError(
            f"prediction.target={config.prediction.target!r} is defined at the levels of the chain alone; use "
            "sampler.name=ancestral, or another one without churn, and sampler.grid=uniform or sampler.levels"
        )
    if method.needs_signal and not has_signal(config):
        raise ValueError(
            f"sampler.name={config.sampler.name!r}: with schedule.name={config.schedule.name!r} nothing of x0 is left "
            "at t = 1, where it cannot start. Use ancestral, ddim or dpmpp_2m"
        )
    if method.mean_velocity and not loss_facts(config).mean_velocity:
        raise ValueError(
            f"sampler.name={config.sampler.name!r}: needs the mean velocity between two times, which loss.name="
            f"{config.loss.name!r} does not train. Use ode_heun, or train with loss.name=mean_flow"
        )
    if process.masks and not config.sampler.denoise and times[-1] > 0:
        raise ValueError(
            f"sampler.denoise=False: masks would be left in the samples, since the grid ends at t = {times[-1]:g}. Use "
            "True"
        )
    if times[0] == 1 and not np.isfinite(in_float64(_conditioned_on(config), np.ones(1))).all():
        raise ValueError(
            f"network.conditioning={config.network.conditioning!r}: is infinite at t = 1, where schedule.name="
            f"{config.schedule.name!r} has no signal left. Use time, or step for a chain"
        )
    if times[0] == 1 and not determines_x0(config, made_target(config)):
        raise ValueError(
            f"prediction.target={config.prediction.target!r}: x0 cannot be found from it at t = 1, where schedule.name="
            f"{config.schedule.name!r} has no signal left. Start sampler.levels or sampler.times below t = 1 (and set "
            "report.sampler_steps=0), or use prediction.target=v, velocity, x0 or posterior_mean"
        )
    if method.uses_kernel and not np.allclose(-chain * np.diff(times), 1, atol=1e-6):
        default = (
            "sampler.num_steps=0, report.sampler_steps=0, sampler.grid=uniform, no sampler.levels, no sampler.times"
        )
        check_single_steps(config, default)
    return loop.Sampler(
        process=process,
        schedule=path,
        denoiser=clipped(config, predict),
        reverse=kernel,
        method=method,
        coefficients=grid_coefficients(config, process, path, times, config.sampler.denoise, method),
        shape=tuple(config.data.shape),
        num_classes=config.data.classes if uses_label(config) else 0,
    )


def _conditioned_on(config: ConfigDict) -> Callable[[Array], Array]:
    """Return the number that the network is conditioned on, as a function of times."""
    start, condition = initial_schedule(config), conditioning(config)
    return lambda t: condition(level(start, t))


def clipped(config: ConfigDict, predict: prediction.Denoiser) -> prediction.Denoiser:
    """Return a denoiser with the clipping of config.sampler."""
    section = config.sampler
    if not clips_x0(config, section):
        return predict
    return prediction.clip_x0(predict, section.dynamic_threshold, section.keep_eps)


def in_bound(config: ConfigDict, predict: prediction.Denoiser) -> prediction.Denoiser:
    """Return a denoiser with the clipping of config.bound."""
    return prediction.clip_x0(predict) if clips_x0(config, config.bound) else predict


def clips_x0(config: ConfigDict, section: ConfigDict) -> bool:
    """Return True if the predicted x0 is clipped; section: config.sampler or config.bound.

    Never for the posterior mean as target, from which x0 is derived: clipping would lose most of the mean at steps
    with little information on x0. Reference: the public code of Ho et al. 2020.
    """
    return bool(section.clip_x0 and target_facts(config).clips)


def number_of_steps(config: ConfigDict) -> int:
    """Return sampler.num_steps, or the steps of the chain down to sampler.min_t; 0 without either."""
    section, chain = config.sampler, config.process.num_steps
    return section.num_steps or (max(1, chain - round(section.min_t * chain)) if chain else 0)


def sampling_times(config: ConfigDict, path: ModelSchedule) -> np.ndarray:
    """Return the falling time grid of config.sampler. Raises ValueError where schedule or chain do not suit it."""
    section, chain = config.sampler, config.process.num_steps
    if section.times:
        times = grids.chosen_times(section.times, section.min_t, below=not has_signal(config))
        check_start(config, times[0])
        return times
    grid = choose("sampler.grid", section.grid, grids.GRIDS)
    if (section.levels or grids.needs_chain(grid)) and not chain:
        raise ValueError(f"sampler.grid={section.grid!r} and sampler.levels need {CHAIN_NEEDED}")
    if section.levels:
        times = grids.chosen_levels(tuple(section.levels), chain, section.min_t)
        if times[0] < 1 and has_signal(config):  # samples start as noise, which is what the last level holds
            first = int(max(section.levels))
            hint = f". For {first} steps use sampler.num_steps={first}" if len(section.levels) == 1 else ""
            raise ValueError(f"sampler.levels: must start at the last level of the chain, {chain} (got {first}){hint}")
        check_start(config, times[0])
        return times
    if not number_of_steps(config):
        raise ValueError("sampler.num_steps=0 is the number of steps of the chain, but process.num_steps=0; set it")
    if "schedule" in inspect.signature(grid).parameters and path.fixed is None:
        raise ValueError(
            f"sampler.grid={section.grid!r} needs a fixed schedule, but schedule.name="
            f"{config.schedule.name!r} is learned; use uniform or quadratic, and this one once it is trained"
        )
    return grids.make(
        grid,
        number_of_steps(config),
        chain_steps=chain,
        schedule=path.fixed,
        end=section.min_t,
        **options(section, "grid"),
    )


def check_start(config: ConfigDict, t: float) -> None:
    """Raise ValueError where x_t at the first time has another scale than the noise."""
    at, end = (in_float64(level, initial_schedule(config), np.array(time)) for time in (t, 1.0))
    scale, of_noise = (float(np.hypot(np.exp(x.log_alpha), np.exp(x.log_sigma))) for x in (at, end))
    if abs(scale / of_noise - 1) > SCALE_RTOL:
        raise ValueError(
            f"sampler.levels and sampler.times: start at t = {t:g}, where x_t has the standard deviation {scale:.3g}, "
            f"but samples start from noise with {of_noise:.3g}. Start nearer to t = 1"
        )


def adaptive_times(config: ConfigDict, path: ModelSchedule) -> np.ndarray:
    """Return the grid of an adaptive sampler. It has both ends, and times in between where it may be cut into parts."""
    if config.process.num_steps and not config.sampler.min_t:
        return grids.uniform(config.process.num_steps, config.process.num_steps)
    return np.linspace(1, lowest_time(config, path, config.sampler.min_t), 101)
