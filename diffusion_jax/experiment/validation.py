"""Config validation: combinations of values that no run can have."""

import functools
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.experiment.choices import options
from diffusion_jax.process import schedules


def check_process(config: ConfigDict) -> None:
    """Raise ValueError for values that the process, the data or the reverse kernel cannot have."""
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
                f"{clipped[0]}=True clips to [-1, 1], but with this data.mean, data.std or data.dequantise the data "
                "exceed that range; use False"
            )
        if config.loss.name in ("vlb", "hybrid") and config.bound.decoder != "density":
            raise ValueError(
                f"bound.decoder={config.bound.decoder!r} is for data in [-1, 1], but with this data.mean, "
                "data.std or data.dequantise the data exceed that range; use bound.decoder=density, or loss.name=K"
            )
    if config.process.name == "binomial":
        needed = {"data.levels": 2, "prediction.target": "x0", "prediction.variance": "fixed_small"}
        for key, value in needed.items():
            section, field = key.split(".")
            if config[section][field] != value:
                raise ValueError(
                    f"process.name='binomial' is for bits, and needs {key}={value}, not {config[section][field]}"
                )
        if name not in schedules.CHAINS or name == "geometric":
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
    if target in ("dpm2015_paper", "dpm2015_code") and name in ("ve", "edm", "subvp", "geometric"):
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
        "eval.num_samples": 0, "data.workers": 0, "times.importance.window": 1,
        "loss.min_snr.gamma": 0, "loss.p2.k": 0, "loss.hybrid.factor": 0,
        "network.label_dropout": 0, "guard.most_skipped": 1, "guard.rollbacks": 0, "eval.quality_every": 0,
        "eval.quality_samples": 2,
    }  # fmt: skip
    below = {
        "times.min_t": 1,
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
            if isinstance(value, tuple | list)
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
        if not isinstance(decay, float | int) or not 0 <= decay < 1:
            raise ValueError(f"ema.decays: {decay!r} is not a number in [0, 1)")
