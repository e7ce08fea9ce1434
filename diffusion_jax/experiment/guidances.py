"""Guidance of a config: none, by class label, classifier or worse model."""

import inspect
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.experiment.choices import choose, options
from diffusion_jax.experiment.networks import conditioning, forward, input_scale
from diffusion_jax.experiment.objectives import loss_facts
from diffusion_jax.objective import prediction
from diffusion_jax.process.base import Array
from diffusion_jax.sampling import guidance


def no_guidance(predict: prediction.Denoiser, scale: float = 1.0) -> prediction.Denoiser:
    """Return the denoiser as it is. Raises ValueError for a scale."""
    if scale != 1:
        names = ", ".join(list(GUIDANCES)[1:])
        raise ValueError(f"guidance.scale: has no meaning with guidance.name='none' (got {scale}). Use one of {names}")
    return predict


GUIDANCES: dict[str, Callable[..., prediction.Denoiser]] = {
    "none": no_guidance,
    "classifier_free": guidance.classifier_free,
    "classifier": guidance.classifier,
    "autoguidance": guidance.autoguidance,
}
"""Guidance by name: factories of a denoiser from the denoiser `predict`."""

OTHER_RUNS = {"log_probs": "classifier", "worse": "autoguidance"}
"""Parameters of these factories that come from another run, with the section of config.guidance that names it."""


def other_run(config: ConfigDict) -> str:
    """Return the section of config.guidance that names the guiding run. "" for guidance without another run."""
    parameters = inspect.signature(choose("guidance.name", config.guidance.name, GUIDANCES)).parameters
    return next((section for parameter, section in OTHER_RUNS.items() if parameter in parameters), "")


def by_classifier(config: ConfigDict) -> bool:
    """Return True for guidance by a classifier of another run."""
    return other_run(config) == OTHER_RUNS["log_probs"]


def class_log_probs(config: ConfigDict, net: Any) -> Callable[..., Array]:
    """Return `log_probs` of the classifier that is the network of a config."""
    return prediction.make_class_log_probs(forward(net), conditioning(config), input_scale(config))


UNITS = ("shape", "levels", "mean", "std")
"""Keys of config.data that two models of the same x_t share."""


def check_guide(config: ConfigDict, guide: ConfigDict) -> None:
    """Raise ValueError unless a run with the config `guide` can guide a run with `config`."""
    name = other_run(config)
    where = config.guidance[name].workdir or "this run"
    if loss_facts(guide).classifier != by_classifier(config):
        raise ValueError(f"guidance.{name}: {where} was trained with loss.name={guide.loss.name!r}. Use another run")
    for field, ours, theirs in (
        ("process", *((c.process.name, c.process.num_steps, options(c.process)) for c in (config, guide))),
        ("schedule", *((c.schedule.name, options(c.schedule)) for c in (config, guide))),
        *((f"data.{key}", config.data[key], guide.data[key]) for key in (*UNITS, "classes")),
    ):
        if ours != theirs and (uses_label(config) or field != "data.classes"):
            raise ValueError(f"guidance.{name}: {where} was trained with {field} {theirs}, this run with {ours}")


def uses_label(config: ConfigDict) -> bool:
    """Return True if samples are drawn for a class."""
    return bool(config.network.conditional or by_classifier(config))
