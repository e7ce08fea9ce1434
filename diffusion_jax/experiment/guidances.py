"""The guidance of a config: predict -> predict, by a class, a classifier or a worse model."""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.experiment.choices import options
from diffusion_jax.experiment.networks import conditioning, forward, input_scale
from diffusion_jax.objective import prediction
from diffusion_jax.process.base import Array

CLASSIFIERS = ("encoder", "mlp")
"""Networks whose output may be the logits of classes, for loss.name=cross_entropy."""


GUIDANCES = ("none", "classifier_free", "classifier", "autoguidance")


def class_log_probs(config: ConfigDict, net: Any) -> Callable[..., Array]:
    """`log_probs` of the classifier that is the network of a config."""
    return prediction.make_class_log_probs(forward(net), conditioning(config), input_scale(config))


def check_guide(config: ConfigDict, guide: ConfigDict) -> None:
    """Raise ValueError unless the run with the config `guide` can guide that of `config`."""
    name, where = config.guidance.name, config.guidance[config.guidance.name].workdir
    if (guide.loss.name == "cross_entropy") != (name == "classifier"):
        raise ValueError(f"guidance.{name}: {where} was trained with loss.name={guide.loss.name!r}; use another run")
    told = name == "classifier" or config.network.conditional
    for field, ours, theirs in (
        ("process", config.process.to_dict(), guide.process.to_dict()),
        ("schedule", *((c.schedule.name, options(c.schedule)) for c in (config, guide))),
        *((f"data.{key}", config.data[key], guide.data[key]) for key in ("shape", "levels", "classes")),
    ):
        if ours != theirs and (told or field != "data.classes"):
            raise ValueError(
                f"guidance.{name}: {where} was trained with {field} {theirs}, this run with {ours}. They must be "
                f"equal. Use another guidance.{name}.workdir"
            )


def uses_label(config: ConfigDict) -> bool:
    """Return True if sampling takes a class label: a conditional network, or classifier guidance."""
    return bool(config.network.conditional or config.guidance.name == "classifier")
