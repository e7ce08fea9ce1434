"""Set keys of a config from Python values."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import config as configs
from diffusion_jax.experiment.choices import Instance

CHANGEABLE = ("sampler", "guidance", "bound", "ode")
"""Sections of a trained run's config that may be changed, as on the command line."""


def put_options(config: ConfigDict, options: Mapping[str, Any] | None) -> None:
    """Set keys of a config. Raises ValueError, naming the key."""
    if not isinstance(options, Mapping | None):
        raise ValueError(f'options={options!r}: must be a dict, such as {{"sampler.num_steps": 50}}')
    for key, value in (options or {}).items():
        put_existing(config, key, value)


def check_arguments(options: Mapping[str, Any] | None, given: Mapping[str, tuple[str, Any]]) -> None:
    """Raise ValueError for an option whose key an argument sets to another value.

    given: the argument and its value by key.
    """
    for key, value in options.items() if isinstance(options, Mapping) else ():
        name, there = given.get(key, ("", None))
        if name and not (isinstance(there, str | int | float) and there == value):
            raise ValueError(f"options: {key}={value!r}: belongs to the argument {name}. Use that alone")


def put_options_of_run(config: ConfigDict, options: Mapping[str, Any] | None) -> None:
    """Set keys of a trained run's config.

    Raises ValueError, naming the key, outside CHANGEABLE, and for an option that has no effect.
    """
    for key in options if isinstance(options, Mapping) else ():
        if key.partition(".")[0] not in CHANGEABLE:
            raise ValueError(f"options: {key}: the config of a run is fixed, but for {', '.join(CHANGEABLE)}")
    put_options(config, options)
    configs.check_effect(config, options or (), "options: ")


def put_existing(config: ConfigDict, key: str, value: Any, name: str = "") -> None:
    """Set a key that the config has.

    name: of the argument that holds the value, where it is not `options`. Raises ValueError, with the nearest key, if
    it has none of this name, and for a value of another type.
    """
    known = dict(configs.flatten(config))
    if key not in known or (isinstance(value, str) and not name):
        return configs.override(config, key, str(value), start="options: ")
    kind = type(known[key])
    if kind is tuple:
        value = tuple(value) if isinstance(value, list | tuple) else (value,)
    numbers = {int: (int, np.integer), float: (int, float, np.integer, np.floating), bool: (bool, np.bool_)}
    fits = isinstance(value, numbers.get(kind, kind)) and (kind is bool or not isinstance(value, bool))
    if not fits and not isinstance(value, Instance):
        raise ValueError(f"{name or f'options: {key}'}={value!r}: has type {type(value).__name__}, not {kind.__name__}")
    configs.put(config, key, kind(value) if kind in numbers and fits else value)
