"""Optimisers and learning-rate schedules by name, through optax."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import optax
from ml_collections import ConfigDict

from diffusion_jax.experiment.choices import make, options

Rate: TypeAlias = Any
"""A learning rate, or a function of the updates so far."""


# Learning rates: factories take the peak learning_rate, and warmup_steps of a linear rise from 0.


def constant(learning_rate: float, warmup_steps: int) -> Rate:
    """Constant learning rate after the warm-up."""
    return optax.linear_schedule(0.0, learning_rate, warmup_steps) if warmup_steps else learning_rate


def linear(
    learning_rate: float, warmup_steps: int, train_steps: int, start: int = 0, total_steps: int = 0, final: float = 0.0
) -> Rate:
    """Constant learning rate until step `start`, then a linear decay to final · learning_rate at total_steps.

    total_steps = 0: train_steps.
    """
    start = max(start, warmup_steps)
    total = _check_total("linear", total_steps or train_steps, start)
    decay = optax.linear_schedule(learning_rate, final * learning_rate, total - start)
    return optax.join_schedules([_callable(constant(learning_rate, warmup_steps)), decay], [start])


def cosine(learning_rate: float, warmup_steps: int, train_steps: int, total_steps: int = 0, final: float = 0.0) -> Rate:
    """Half a cosine from learning_rate after the warm-up to final · learning_rate at total_steps.

    total_steps = 0: train_steps. Reference: Loshchilov and Hutter 2017, eq. 5, without restarts.
    """
    total = _check_total("cosine", total_steps or train_steps, warmup_steps)
    return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup_steps, total, final * learning_rate)


def inverse_sqrt(learning_rate: float, warmup_steps: int, start: int = 70_000) -> Rate:
    """learning_rate / sqrt(max(n / start, 1)) after n updates. Reference: Karras et al. 2024 (EDM2), eq. 67."""
    if start < 1:
        raise ValueError(f"optimizer.inverse_sqrt.start={start}: must be at least 1")
    before = _callable(constant(learning_rate, warmup_steps))
    return lambda n: before(n) / (jax.numpy.maximum(n / start, 1.0) ** 0.5)


def _callable(rate: Rate) -> optax.Schedule:
    return rate if callable(rate) else optax.constant_schedule(rate)


def _check_total(name: str, total: int, start: int) -> int:
    """Return `total`. Raises ValueError unless it is after `start`."""
    if total <= start:
        raise ValueError(
            f"optimizer.{name}.total_steps={total}: the decay must end after it starts, at step {start}. Use 0 for "
            "train_steps, or lower optimizer.warmup_steps"
        )
    return total


RATES: dict[str, Callable[..., Rate]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "inverse_sqrt": inverse_sqrt,
}


# Optimisers: factories take the learning rate. Weight decay does not act on a learned schedule.


def decayed(params: Any) -> Any:
    """Return False for the arrays of a learned schedule, params["schedule"], and True for all others."""
    return jax.tree_util.tree_map_with_path(lambda path, _: jax.tree_util.keystr(path[:1]) != "['schedule']", params)


def decay(strength: float) -> optax.GradientTransformation:
    """Add `strength` times the parameters to their updates, where `decayed`. It has no state of its own."""

    def update(updates: Any, params: Any) -> Any:
        return jax.tree.map(lambda to, g, p: g + strength * p if to else g, decayed(params), updates, params)

    return optax.stateless(update)


def adam(
    learning_rate: Rate, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """Adam; with a weight decay, AdamW. Reference: Kingma and Ba 2015; Loshchilov and Hutter 2019.

    Ho's TensorFlow code adds epsilon before the bias correction, which makes its effect depend on the step; here it is
    added after, as in the paper.
    """
    if weight_decay:
        steps = optax.scale_by_adam(b1, b2, eps), decay(weight_decay)
        return optax.chain(*steps, optax.scale_by_learning_rate(learning_rate))
    return optax.adam(learning_rate, b1, b2, eps)


def adamw(
    learning_rate: Rate, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.01
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay. Reference: Loshchilov and Hutter 2019."""
    return adam(learning_rate, b1, b2, eps, weight_decay)


def lion(
    learning_rate: Rate, b1: float = 0.9, b2: float = 0.99, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """Lion: the sign of an average of the gradients.

    Its learning rate is a third to a tenth of Adam's.

    Reference: Chen et al. 2023, algorithm 2.
    """
    steps = optax.scale_by_lion(b1, b2), decay(weight_decay)
    return optax.chain(*steps, optax.scale_by_learning_rate(learning_rate))


def muon(
    learning_rate: Rate, beta: float = 0.95, steps: int = 5, weight_decay: float = 0.0, rms: float = 0.2
) -> optax.GradientTransformation:
    """Muon for matrices [inputs, outputs] and higher arrays, Adam for vectors and scalars.

    steps: Newton-Schulz iterations. rms: root mean square of an update relative to the learning rate, so that Adam's
    learning rates fit. Reference: Jordan et al. 2024; Liu et al. 2025 (rms).
    """
    numbers = optax.contrib.MuonDimensionNumbers

    def matrices(params: Any) -> Any:
        return jax.tree.map(lambda x: numbers(tuple(range(x.ndim - 1)), x.ndim - 1) if x.ndim > 1 else None, params)

    def with_decay(strength: float) -> optax.GradientTransformation:
        return optax.contrib.muon(
            learning_rate,
            ns_steps=steps,
            beta=beta,
            weight_decay=strength,
            adam_weight_decay=strength,
            muon_weight_dimension_numbers=matrices,
            consistent_rms=rms,
        )

    if not weight_decay:
        return with_decay(0.0)
    return optax.partition({True: with_decay(weight_decay), False: with_decay(0.0)}, decayed)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": adam,
    "adamw": adamw,
    "lion": lion,
    "muon": muon,
}


# From a config.


def learning_rate(config: ConfigDict) -> Rate:
    """Return the learning rate of config.optimizer.schedule. Raises ValueError."""
    section = config.optimizer
    given = {"learning_rate": section.learning_rate, "warmup_steps": section.warmup_steps}
    return make(
        "optimizer.schedule",
        section.schedule,
        RATES,
        _checked(config, "schedule"),
        train_steps=config.train_steps,
        **given,
    )


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Return the optimiser of config.optimizer.name, after clipping the global norm.

    Raises ValueError. (Ho's TensorFlow code clips on each device before the average, so that its result depends on
    their number.)
    """
    section = config.optimizer
    made = make(
        "optimizer.name", section.name, OPTIMIZERS, _checked(config, "name"), learning_rate=learning_rate(config)
    )
    return optax.chain(optax.clip_by_global_norm(section.grad_clip), made) if section.grad_clip else made


def _checked(config: ConfigDict, key: str) -> dict[str, Any]:
    """Return the options of a choice. Raises ValueError for a negative number, or a decay of moments from 1 on."""
    given = options(config.optimizer, key)
    for option, value in given.items():
        end = 1 if option in ("b1", "b2", "beta") else float("inf")
        if isinstance(value, int | float) and not 0 <= value < end:
            raise ValueError(f"optimizer.{config.optimizer[key]}.{option}={value}: must be in [0, {end})")
    return given


def evaluated(rate: Rate) -> Callable[[int], float]:
    """Return a learning rate as a function of the number of updates. Its result is a float."""
    return lambda n: float(rate(n) if callable(rate) else rate)


def fill_in(config: ConfigDict, stored: Mapping[str, Any] | None = None) -> ConfigDict:
    """Set total_steps of a decaying learning rate where it is 0.

    It is that of the stored config of a run that is resumed, else train_steps, so the decay of a run ends where it was
    to end at its first start. Returns the config.
    """
    name = str(config.optimizer.schedule)
    chosen, before = config.optimizer.get(name, {}), (stored or {}).get("optimizer", {}).get(name, {})
    if chosen.get("total_steps") == 0:
        chosen.total_steps = before.get("total_steps") or config.train_steps
    return config


def check_decay(config: ConfigDict) -> None:
    """Raise ValueError if a decay to zero ends before training does.

    The steps after it would change nothing.
    """
    name = str(config.optimizer.schedule)
    chosen = config.optimizer.get(name, {})
    total = chosen.get("total_steps", 0)
    if 0 < total < config.train_steps and chosen.get("final") == 0:
        raise ValueError(
            f"train_steps={config.train_steps}: the learning rate is 0 from step {total} on "
            f"(optimizer.{name}.total_steps={total}), and later steps change nothing. Set optimizer.{name}.total_steps="
            f"{config.train_steps} to move the end of the decay"
        )
