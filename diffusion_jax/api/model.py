"""Model: network, schedule, target and loss, and its config."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from ml_collections import ConfigDict

from diffusion_jax import config as configs
from diffusion_jax.api.keys import check_arguments, put_existing, put_options
from diffusion_jax.api.namespaces import Choice, chosen_of
from diffusion_jax.experiment import choices
from diffusion_jax.experiment.choices import Instance
from diffusion_jax.experiment.objectives import loss_facts
from diffusion_jax.objective import targets
from diffusion_jax.process.base import Schedule


@dataclasses.dataclass(frozen=True)
class Model:
    """A diffusion model to be trained.

    It has a network, a noise schedule, a prediction target, and a loss.

    Arguments:
        network: a linen module with `__call__(x, time)` or `(x, time, label)`, x [B,*D] -> [B,*D]. It may use flax's
            Dropout, with a `train` or `deterministic` argument or by `self.has_rng("dropout")`. Networks of this
            package (`dj.networks`) work as well.
        schedule: of `dj.schedules`, its name, or a function t -> (log_alpha, log_sigma) of t in [0, 1].
        target: what the network predicts: "eps", "x0", "v", "score", "velocity", "edm", "posterior_mean", another name
            of the key `prediction.target`, or `module:function`.
        loss: of `dj.losses`, or its name.
        process: of `dj.processes`, or its name.
        num_steps: steps of the chain; 0: continuous time. None: 1000 for a schedule given by name, 0 for a function,
            and for `dj.schedules.…` its own `num_steps`, 0 where it has none.
        conditioning: the time for the network: "step" (k - 1 = 0 … T - 1), "time" (999 t), "slow_time" (8 t), "logsnr",
            "log_sigma". Default: "step" for a chain, "time" in continuous time.
        label_dropout: share of labels dropped (-1) in training, for classifier-free guidance.
        options: any other keys of the config, such as {"prediction.variance": "fixed_small"}.
    """

    network: nn.Module
    schedule: Choice | Schedule | str = "linear"
    target: str = "eps"
    loss: Choice | str = "simple"
    process: Choice | str = "gaussian"
    num_steps: int | None = None
    conditioning: str = ""
    label_dropout: float = 0.0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError as `config` does."""
        self.config()

    def arguments(self) -> dict[str, tuple[str, Any]]:
        """Return the keys that arguments set, those at their default left out: {key: (argument, value)}."""
        keys = {"schedule": "schedule.name", "target": "prediction.target", "loss": "loss.name"}
        keys |= {"process": "process.name", "num_steps": "process.num_steps"}
        keys |= {"conditioning": "network.conditioning", "label_dropout": "network.label_dropout"}
        values = {key: (name, getattr(self, name)) for name, key in keys.items()}
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        given = {key: (name, value) for key, (name, value) in values.items() if value is not defaults[name]}
        named = {key: (name, getattr(value, "name", value)) for key, (name, value) in given.items()}
        return named | {"network.name": ("network", self.network)}

    def config(self) -> ConfigDict:
        """Return the config of the model.

        Keys that the model does not set have their defaults. Raises ValueError, naming the argument or the key, for a
        choice or an option that does not exist.
        """
        config = configs.defaults()
        put_network(config, self.network)
        for section, choice in (("schedule", self.schedule), ("loss", self.loss), ("process", self.process)):
            chosen = chosen_of(section, choice)
            if isinstance(chosen, Choice):
                chosen.put(config)
            elif isinstance(chosen, str):
                configs.put(config, f"{section}.name", chosen)
            else:  # a schedule; by its name it would be called as a factory
                configs.put(config, "schedule.name", Instance(chosen, spelling(chosen) + choices.NOT_STORED))
        if self.num_steps is not None:
            own = self.schedule.options.get("num_steps") if isinstance(self.schedule, Choice) else None
            if own not in (None, self.num_steps):
                raise ValueError(f"num_steps={self.num_steps}: the schedule has num_steps={own}. Give one of them")
            put_existing(config, "process.num_steps", self.num_steps, "num_steps")
        elif isinstance(self.schedule, Choice) and "num_steps" not in self.schedule.options:
            factory = configs.choices()["schedule"][self.schedule.name]
            if "num_steps" not in inspect.signature(factory).parameters:
                config.process.num_steps = 0
        elif callable(self.schedule) and not isinstance(self.schedule, Choice):
            config.process.num_steps = 0
        choices.choose("target", self.target, targets.TARGETS)
        config.prediction.target = self.target
        config.network.conditioning = self.conditioning or ("step" if config.process.num_steps else "time")
        put_existing(config, "network.label_dropout", self.label_dropout, "label_dropout")
        if not config.process.num_steps:
            config.sampler.update(num_steps=100, min_t=0.0)
            if not loss_facts(config).continuous:
                config.times.min_t = 1e-5
        check_arguments(self.options, self.arguments())
        put_options(config, self.options)
        return config


def spelling(made: Any) -> str:
    """Return "module:name" of a class or function."""
    return f"{getattr(made, '__module__', '?')}:{getattr(made, '__qualname__', type(made).__qualname__)}"


def put_network(config: ConfigDict, network: nn.Module) -> None:
    """Name a network in a config. The network is a built-in one, one that can be imported, or the object itself."""
    if not isinstance(network, nn.Module):
        got = f"the class {network.__name__}" if isinstance(network, type) else type(network).__name__
        raise ValueError(f"network: expected a flax.linen module, such as MyNet(); got {got}")
    fields = {
        field.name: getattr(network, field.name)
        for field in dataclasses.fields(network)
        if field.name not in ("parent", "name")
    }
    for name, factory in configs.choices()["network"].items():
        if type(network) is factory:
            config.network.name = name
            known = choices.signature_options(factory)
            config.network[name].update({key: value for key, value in fields.items() if key in known})
            return
    name = spelling(type(network))
    try:
        importable = choices.own("network", name) is type(network)
    except ValueError:
        importable = False
    changed = {field.name for field in dataclasses.fields(network) if not _at_default(network, field)} & set(fields)
    plain = [
        key
        for key, value in fields.items()
        if isinstance(value, bool | int | float | str | tuple) and key not in choices.PROVIDED
    ]
    if importable and changed <= set(plain):
        configs.put(config, "network.name", name)
        for key in plain:
            configs.put(config, f"network.options.{key}", fields[key])
    else:
        configs.put(config, "network.name", Instance(network, name + (choices.NOT_STORED if importable else "")))


def _at_default(network: nn.Module, field: dataclasses.Field[Any]) -> bool:
    """Return whether a field of a network has its default."""
    value = getattr(network, field.name)
    if field.default_factory is not dataclasses.MISSING:
        made = field.default_factory()
        return bool(value == made or (isinstance(made, list) and value == tuple(made)))  # flax makes tuples of lists
    if isinstance(value, bool | int | float | str | tuple):
        return type(value) is type(field.default) and value == field.default
    return value is field.default
