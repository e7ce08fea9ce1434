"""Config validation: values out of range, and choices that do not fit."""

import functools
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax import averages
from diffusion_jax.data import augmentation
from diffusion_jax.data.coupling import COUPLINGS
from diffusion_jax.data.scaling import is_plain
from diffusion_jax.experiment import guidances, objectives, optimizers, paths
from diffusion_jax.experiment.choices import choose, options, refuse
from diffusion_jax.networks.registry import NETWORKS
from diffusion_jax.process.base import Process


def check_process(config: ConfigDict, process: Process) -> None:
    """Raise ValueError where target, variance, schedule, data and process do not fit."""
    target, variance = objectives.target_facts(config), paths.variance_facts(config)
    process_is, schedule_is = (f"{key}.name={config[key].name!r}" for key in ("process", "schedule"))
    target_is, variance_is = (f"prediction.{key}={config.prediction[key]!r}" for key in ("target", "variance"))
    other, levels = not process.gaussian, config.data.levels
    coupled = choose("data.coupling", config.data.coupling, COUPLINGS) is not None
    refuse(
        (
            process.levels and levels != process.levels,
            f"{process_is}: needs data.levels={process.levels} (got {levels})",
        ),
        (
            other and not is_plain(config.data),
            f"{process_is}: needs data in [-1, 1]. Leave data.mean, data.std and data.dequantise",
        ),
        (
            other and config.prediction.input_scaling != "none",
            f"{process_is}: prediction.input_scaling needs Gaussian noise. Use none",
        ),
        (other and coupled, f"{process_is}: data.coupling={config.data.coupling!r} needs Gaussian noise. Use none"),
        (other and config.data.augment, f"{process_is}: data.augment needs Gaussian noise. Use 0"),
        (
            other and choose("guidance.name", config.guidance.name, guidances.GUIDANCES) is not guidances.no_guidance,
            f"{process_is}: guidance.name={config.guidance.name!r} needs Gaussian noise. Use none",
        ),
        (other and target.gaussian, f"{process_is}: {target_is} needs Gaussian noise. Use x0"),
        (other and variance.gaussian, f"{process_is}: {variance_is} needs Gaussian noise. Use fixed_small"),
        (
            other and (paths.is_learned(config) or not paths.preserves_variance(config)),
            f"{process_is}: needs a fixed, variance-preserving schedule (got {schedule_is}), since no gradient goes "
            "through a drawn bit. Use schedule.name=harmonic, or polynomial in continuous time",
        ),
        (
            process.masks and paths.has_signal(config),
            f"{process_is}: with a mask for noise, nothing of x0 may be left at t = 1 (got {schedule_is}). Use "
            "schedule.name=harmonic, or polynomial in continuous time",
        ),
        (
            target.family and target.family != variance.family,
            f"{target_is}: has the variance in its mean (got {variance_is}). Set prediction.variance={target.family}, "
            "or use prediction.target=dpm2015_code",
        ),
        *(
            (
                config.sampler[key] and not target.clips,
                f"sampler.{key}={config.sampler[key]}: {target_is} is never clipped. Set sampler.{key}={off}",
            )
            for key, off in (("keep_eps", False), ("dynamic_threshold", 0))
        ),
        (
            target.preserves_variance and not paths.preserves_variance(config),
            f"{target_is}: needs a variance-preserving schedule (got {schedule_is})",
        ),
    )


def check_data(config: ConfigDict) -> None:
    """Raise ValueError where the range of the data does not suit the config."""
    data = config.data
    leaves = not is_plain(config.data)
    refuse(
        (not data.shape, "data.shape: is empty. Set it, or open the data first, which fills it in"),
        (not data.std > 0, f"data.std: must be above 0 (got {data.std})"),
        (
            data.dequantise and not data.levels,
            "data.dequantise: spreads grey levels, but the data are floats (levels=0). Use False",
        ),
        *(
            (
                leaves and config[key].clip_x0,
                f"{key}.clip_x0: clips to [-1, 1], but data.mean, std or dequantise leave it. Use False",
            )
            for key in ("sampler", "bound")
        ),
    )


def check_augmentation(config: ConfigDict) -> None:
    """Raise ValueError where the augmentation does not suit data, network or loss."""
    asked, network = f"data.augment={config.data.augment}", config.network.name
    takes = options(config.network).get("augment_dims", 0) if network in NETWORKS else 0
    refuse(
        (
            len(config.data.shape) != 3 or min(config.data.shape[:2]) < 2,
            f"{asked}: is for images [H,W,C] (got data.shape={tuple(config.data.shape)}). Use 0",
        ),
        (
            takes != augmentation.LABEL_DIMS,
            f"{asked}: needs a network with a label of {augmentation.LABEL_DIMS} numbers (got network.name={network!r} "
            f"with {takes}). Use network.name=ncsnpp with network.ncsnpp.augment_dims={augmentation.LABEL_DIMS}",
        ),
        (config.data.flip, f"{asked}: flips images itself, and labels the flips. Set data.flip=False"),
        (
            objectives.loss_facts(config).mean_velocity,
            f"{asked}: loss.name={config.loss.name!r} takes no label of the augmentation. Use another loss, or 0",
        ),
    )


def check(config: ConfigDict) -> None:
    """Raise ValueError for values outside of their range."""
    check_data(config)
    if config.data.augment:
        check_augmentation(config)
    at_least = {
        "train_steps": 1, "batch_size": 1, "accumulate_steps": 1, "process.num_steps": 0, "optimizer.learning_rate": 0,
        "optimizer.warmup_steps": 0, "optimizer.grad_clip": 0, "ema.ramp": 0, "sampler.num_steps": 0,
        "sampler.tile": 1, "bound.num_steps": 0, "bound.num_examples": 0, "ode.probes": 1,
        "checkpoint.every": 1, "checkpoint.keep": 1,
        "checkpoint.keep_every": 0, "report.every": 1, "report.samples_every": 0, "report.num_samples": 1,
        "report.sampler_steps": 0, "eval.every": 0, "eval.max_examples": 1, "eval.passes": 1,
        "eval.num_samples": 0, "data.workers": 0, "times.importance.window": 1,
        "loss.min_snr.gamma": 0, "loss.p2.k": 0, "loss.hybrid.factor": 0, "loss.elbo.beta": 0,
        "loss.gan.r1": 0,
        "network.label_dropout": 0, "guard.most_skipped": 1, "guard.rollbacks": 0, "eval.quality_every": 0,
        "eval.quality_samples": 4,
    }  # fmt: skip
    below = {
        "times.min_t": 1,
        "sampler.min_t": 1,
        "ode.min_t": 1,
        "data.augment": 1,
        "sampler.dynamic_threshold": 1,
        "times.importance.uniform_share": 1,
    }

    def of(name: str) -> Any:
        return functools.reduce(lambda node, key: node[key], name.split("."), config)

    for name, least in at_least.items():
        if not least <= of(name) < float("inf"):
            raise ValueError(f"{name}={of(name)}: must be finite, and at least {least}")
    for name, end in below.items():
        if not 0 <= of(name) < end:
            raise ValueError(f"{name}={of(name)} is not in [0, {end})")
    if config.sampler.dynamic_threshold and not config.sampler.clip_x0:
        raise ValueError(
            f"sampler.dynamic_threshold={config.sampler.dynamic_threshold}: needs sampler.clip_x0=True. Set it, or 0"
        )
    if config.sampler.keep_eps and not config.sampler.clip_x0:
        raise ValueError("sampler.keep_eps=True: needs sampler.clip_x0=True. Set it, or sampler.keep_eps=False")
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
        "sampler.levels": config.sampler.levels,
        "bound.paths": config.bound.paths,
        **{
            f"network.{config.network.name}.{key}": value
            for key, value in options(config.network).items()
            if isinstance(value, tuple | list) and config.network.name in NETWORKS
        },
    }.items():
        for value in values:
            if not isinstance(value, int):
                raise ValueError(f"{name}={tuple(values)}: {value!r} is not a whole number")
    for value in config.sampler.times:
        if not isinstance(value, int | float):
            raise ValueError(f"sampler.times={tuple(config.sampler.times)}: {value!r} is not a number")
    if config.checkpoint.best != "heldout_loss" and not config.eval.quality_every:
        raise ValueError(
            f"checkpoint.best={config.checkpoint.best!r} is not measured, since eval.quality_every=0; set that, or use "
            "heldout_loss"
        )
    for decay in config.ema.decays:
        if str(decay).startswith(averages.KEPT):
            averages.sigma_of(decay, averages.KEPT, "ema.decays")
        elif not isinstance(decay, float | int) or not 0 <= decay < 1:
            raise ValueError(f"ema.decays: {decay!r} is not a number in [0, 1). Use one, or {averages.KEPT}0.1")
    optimizers.optimizer(config)
