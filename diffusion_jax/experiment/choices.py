"""Choices of a config: names, their options, and calls of their factories.

A factory receives arguments from the experiment by parameter name (`num_steps`, `num_classes`, …, see PROVIDED); its
other parameters with a default are its options in a config. Further needs are declared as `declarations.Facts`.
"""

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.data.source import NoHeldout
from diffusion_jax.declarations import Facts, facts_of

CHAIN_NEEDED = "a chain: set process.num_steps to its number of steps, 1000 for example"

PROVIDED = (
    *("learning_rate", "warmup_steps", "train_steps"),
    *("num_steps", "num_levels", "num_classes", "out_channels", "remat", "sigma_data", "min_t", "split", "data_shape"),
    *("schedule", "process", "setting", "draw", "draws_x0", "end", "chain_steps", "parent", "name"),
)
"""Parameters of factories that are no options: the experiment provides them, or flax does."""


@dataclasses.dataclass(frozen=True, eq=False)
class Instance:
    """An object that Python code passed in place of a name in a config. Calling it as a factory returns the object."""

    made: Any
    spelling: str
    """Name of the object in a stored config, "module:attribute" where it can be imported."""

    @property
    def facts(self) -> Facts:
        """The facts that the object declares."""
        return facts_of(self.made)

    def __str__(self) -> str:
        return self.spelling

    def __call__(self, split: str = "") -> Any:
        """Return the object. For the sources of a data set, {split: Source}, return the source of a split."""
        if not isinstance(self.made, dict):
            return self.made
        if split not in self.made:
            name = "heldout" if split == "heldout" else "data"
            raise NoHeldout(
                f"{name}: this run has no split {split!r}", f"Pass it to dj.train or dj.load: {name}=images"
            )
        return self.made[split]


OWN_OPTIONS = {"name": "options", "grid": "grid_options", "schedule": "schedule_options"}
"""Where a section of a config has the options of a choice `module:function`, by the key of the choice."""


def choose(key: str, name: str | Instance, table: Mapping[str, Any]) -> Any:
    """Return the choice of a name: `table[name]`, the imported "module:attribute", or an `Instance` as it is.

    Raises ValueError, naming the key, the nearest name and all names, for an unknown one.
    """
    if isinstance(name, Instance):
        return name
    if name in table:
        return table[name]
    flag = key.startswith("--")
    if ":" in name and not flag:
        return own(key, name)
    near = difflib.get_close_matches(name, table, 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    known = [*table, *([] if flag else ["or module:function"])]
    raise ValueError(f"{key}={name!r} is unknown.{hint} Use one of {', '.join(known)}")


def refuse(*rules: tuple[Any, str]) -> None:
    """Raise ValueError with the message of the first rule (broken, message) that is broken."""
    for broken, message in rules:
        if broken:
            raise ValueError(message)


NOT_STORED = "(…)"
"""Ending of the stored name of an object whose options no config can hold."""


def own(key: str, name: str) -> Any:
    """Import "module:attribute". Raises ValueError, naming the key, where that fails."""
    if name.endswith(NOT_STORED):
        raise ValueError(
            f"{key}={name!r}: its options are not stored. Pass the object itself: dj.load(…, {key.partition('.')[0]}=…)"
        )
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{key}={name!r} cannot be imported ({error}); use module:function") from error


def options(section: Mapping[str, Any] | ConfigDict, key: str = "name") -> dict[str, Any]:
    """Return the options of the choice that a section of a config makes."""
    name = section[key]
    return {} if isinstance(name, Instance) else dict(section.get(OWN_OPTIONS[key] if ":" in name else name, {}))


def signature_options(factory: Any) -> dict[str, Any]:
    """Return the options of a factory with their defaults.

    Options are the parameters with a default that nothing provides.
    """
    found = {}
    for name, parameter in inspect.signature(factory).parameters.items():
        default = parameter.default
        if isinstance(default, dataclasses.Field | type(dataclasses.MISSING)):
            continue
        if name not in PROVIDED and isinstance(default, bool | int | float | str | tuple):
            found[name] = default
    return found


def make(key: str, name: str | Instance, table: Mapping[str, Any], given: Mapping[str, Any], **provided: Any) -> Any:
    """Call the factory of a choice with its options and other arguments.

    The other arguments are those in its signature that the experiment provides. key: of the config, for errors. given:
    the options. A parameter `num_steps` without default needs a chain. Raises ValueError, on one line, for an option
    that the factory does not take, a parameter that nothing gives, or whatever the factory itself refuses.
    """
    factory = choose(key, name, table)
    parameters = inspect.signature(factory).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for option in given:
        if option not in parameters and not anything:
            near = difflib.get_close_matches(option, parameters, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{key}={name!r} takes no option {option!r}.{hint} It takes {', '.join(parameters)}")
    arguments = {word: value for word, value in provided.items() if word in parameters} | dict(given)
    for word, parameter in parameters.items():
        needed = parameter.default is parameter.empty and parameter.kind in (
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        )
        if needed and word == "num_steps" and not arguments.get(word):
            raise ValueError(f"{key}={name!r} needs {CHAIN_NEEDED}")
        if needed and word not in arguments:
            raise ValueError(f"{key}={name!r} needs the option {word!r}, which has no default: set it")
    return factory(**arguments)
