"""Configs of stored runs.

Those of older versions are read, and that of a run that goes on is compared with the stored one.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.config.schema import defaults, flat_defaults
from diffusion_jax.config.tree import flatten, in_use, plain, put

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


MAY_DIFFER = (
    *("train_steps", "parallel", "accumulate_steps", "remat", "require_accelerator"),
    *("data.workers", "checkpoint", "guard", "report", "eval", "sampler", "guidance", "ode"),
    *("data.arrays.path", "data.arrays.heldout", "data.folder.path", "data.folder.heldout", "data.folder.in_memory"),
    *("data.folder.max_pixels", "data.idx.path", "data.tfds.data_dir", "data.tfds.in_memory", "data.class_names"),
    *("data.heldout_fingerprint", "optimizer.linear.total_steps", "optimizer.cosine.total_steps"),
)
"""Config keys and sections that may change on resume.

They alter no step, except the end of a decaying learning rate: who lengthens a run may move it.
"""


def merge(stored: Mapping[str, Any]) -> ConfigDict:
    """Return a stored config over today's defaults, except for FORMER.

    Renamed keys are translated. Raises ValueError for a key that is unknown, or gone and not at the default it had.
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


def check_resume(stored: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raise ValueError, naming each key, if `config` differs from the `stored` one beyond MAY_DIFFER.

    checkpoint.best must stay, since its values are compared between checkpoints.

    Keys that the stored config lacks are at their defaults; options of choices that are not made do not count. The data
    may lie elsewhere, but must be the same (data.fingerprint); imported weights (data.size=0) go on with any data.
    """
    from diffusion_jax.experiment.choices import NOT_STORED

    before, now = (in_use(plain(merge(plain(one)))) for one in (stored, config))
    for key in ("data.size", "data.fingerprint"):
        if before["data.size"] == 0 or not before[key]:
            before[key] = now[key]
    for one in (before, now):
        for key in ("network.name", "schedule.name"):
            one[key] = str(one[key]).removesuffix(NOT_STORED)
    may_differ = tuple(f"{key}." for key in MAY_DIFFER)
    differing = [
        f"{key}: stored {before.get(key, 'nothing')!r}, got {now.get(key, 'nothing')!r}"
        for key in sorted(before.keys() | now.keys())
        if (key == "checkpoint.best" or not f"{key}.".startswith(may_differ)) and before.get(key) != now.get(key)
    ]
    if differing:
        data = all(line.startswith(("data.size:", "data.fingerprint:")) for line in differing)
        what = "the training data have changed" if data else "the config differs from that of the run in this workdir"
        back = "Restore the data" if data else "Use the stored values"
        raise ValueError(
            f"{what} ({'; '.join(differing)}). {back} to continue the run, or another --workdir for a new one"
        )
