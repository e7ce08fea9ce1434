"""Read configs that older versions stored."""

import difflib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.config.schema import defaults, flat_defaults
from diffusion_jax.config.tree import flatten, put

RENAMED: dict[str, tuple[str, dict[Any, Any]]] = {
    "network.told": ("network.conditioning", {}),
    "prediction.input": ("prediction.input_scaling", {"as_it_is": "none"}),
    "sampler.steps": ("sampler.levels", {}),
    **{f"optimizer.{key}": (f"optimizer.adam.{key}", {}) for key in ("b1", "b2", "eps", "weight_decay")},
}
"""Keys of older versions: the name today, and values that are spelt otherwise."""
GONE: dict[str, Any] = {}
"""Keys that exist no more, with the default they had: a stored config may hold that value, and no other."""
FORMER: dict[str, Any] = {"ema.ramp": 0.0}
"""Defaults that have changed: a stored config that lacks such a key was trained with this value."""


def merge(stored: Mapping[str, Any]) -> ConfigDict:
    """Return a stored config over today's defaults, except for FORMER.

    Renamed keys are translated. Raises ValueError for a key that is
    unknown, or gone and not at the default it had.
    """
    from diffusion_jax.experiment.choices import OWN_OPTIONS

    config = defaults()
    values = dict(FORMER)
    for old, value in flatten(stored):
        key, spelt = RENAMED.get(old, (old, {}))
        values[key] = spelt.get(value, value) if not isinstance(value, tuple) else value
    for key in sorted(values, key=lambda key: not key.endswith(tuple(OWN_OPTIONS))):
        value = values[key]
        if key in GONE:
            if value != GONE[key]:
                raise ValueError(f"stored config: {key}={value!r} has no counterpart in this version; it was removed")
            continue
        section, _, rest = key.partition(".")
        own = {options: choice for choice, options in OWN_OPTIONS.items()}.get(rest.partition(".")[0], "")
        if own and ":" in str(config.get(section, {}).get(own, "")):
            put(config, key, value)
            continue
        if key not in flat_defaults():
            near = difflib.get_close_matches(key, flat_defaults(), 1)
            hint = f" (nearest: {near[0]})" if near else ""
            raise ValueError(f"stored config: unknown key {key!r}{hint}; a newer version of diffusion_jax may have it")
        put(config, key, value)
    return config
