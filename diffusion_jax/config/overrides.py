"""Set keys from text, with hints for unknown ones."""

import ast
import difflib
import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.config.schema import choices
from diffusion_jax.config.tree import as_tuples, flatten, in_use

ALIASES: dict[str, tuple[str, ...]] = {
    "lr": ("optimizer.learning_rate",),
    "wd": ("optimizer.*.weight_decay",),
    "beta1": ("optimizer.*.b1", "optimizer.muon.beta"),
    "beta2": ("optimizer.*.b2",),
    "betas": ("optimizer.*.b1", "optimizer.*.b2", "optimizer.muon.beta"),
    "steps": ("train_steps", "*.num_steps"),
    "timesteps": ("process.num_steps",),
    "decay": ("ema.decays",),
    "ema": ("ema.decays",),
    "w": ("guidance.scale",),
    "cfg_scale": ("guidance.scale",),
    "guidance_scale": ("guidance.scale",),
    "type": ("*.name",),
    "dir": ("data.*.path", "data.*.data_dir"),
    "data_dir": ("data.*.path",),
    "path": ("data.*.path", "data.*.data_dir"),
}
"""Names that people type, as the last part of a key, for hints: patterns of the keys in use that they mean."""


def override_all(
    config: ConfigDict, values: Mapping[str, str], start: str = "--config.", idle: Sequence[str] = ()
) -> None:
    """Apply overrides {key: text} as `override` does.

    Names of choices come first, since options of your own choices depend on them. An option of a choice that is not
    made has no effect, and raises ValueError. idle: sections whose options may be set without their choice, where one
    list of options serves several choices (sweeps, `frontier`).
    """
    from diffusion_jax.experiment.choices import OWN_OPTIONS

    for key in sorted(values, key=lambda key: not key.endswith(tuple(OWN_OPTIONS))):
        override(config, key, values[key], start)
    check_effect(config, [key for key in values if key.partition(".")[0] not in idle], start)


def check_effect(config: ConfigDict, keys: Iterable[str], start: str) -> None:
    """Raise ValueError for an option of a choice that the config does not make.

    start: what stands before a key in errors.
    """
    used, flag = in_use(config), start if start.startswith("--") else ""
    for key in keys:
        given = [name for name in ("sampler.times", "sampler.levels") if used.get(name)]
        if given and key in ("sampler.num_steps", "sampler.grid"):
            raise ValueError(f"{start}{key}: has no effect with {given[0]}={used[given[0]]}. Set that to ()")
        if key not in used:
            section, name, _ = key.split(".", 2)
            choice = f"{section}.{_choice_of(section, name)}"
            raise ValueError(
                f"{start}{key}: has no effect with {choice}={used[choice]}. Set {flag}{choice}={name}, or leave it out"
            )


def _choice_of(section: str, name: str) -> str:
    """Return which choice of a section a name is for: "name", "grid" or "schedule"."""
    from diffusion_jax.experiment.optimizers import RATES
    from diffusion_jax.sampling.grids import GRIDS

    others = {"sampler": ("grid", GRIDS), "optimizer": ("schedule", RATES)}
    key, table = others.get(section, ("name", {}))
    return key if name in table else "name"


def override(config: ConfigDict, key: str, text: str, start: str = "--config.") -> None:
    """Set one key from text, of the type of its default. start: what stands before the key in errors.

    Raises ValueError, naming the flag as typed, the nearest key and the keys of its section, for an unknown key, a
    section, or text that is no such value.
    """
    flag = f"{start}{key}"
    node, parts = config, key.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, ConfigDict) or part not in node:
            raise ValueError(f"{flag}: unknown key {'.'.join(parts[: depth + 1])!r}. {_hint(config, key, node, depth)}")
        holder, node = node, node[part]
    if isinstance(node, ConfigDict):
        example = f"{key}.name={text}" if "name" in node else f"{key}.{next(iter(node), 'KEY')}=VALUE"
        raise ValueError(f"{flag}={text}: {key!r} is a section; write {start}{example}")
    holder[parts[-1]] = parse(flag, text, node)
    if ":" in text and (len(parts) == 1 or parts[0] in choices()):
        _add_own_options(holder, parts[-1], flag)


def parse(flag: str, text: str, like: Any) -> Any:
    """Return text as a value of the type of `like`. Raises ValueError that names the flag."""
    kinds = {bool: "true or false", int: "a whole number", float: "a number", tuple: "a list such as 1,2"}
    try:
        if isinstance(like, str):
            return text
        if isinstance(like, bool):
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if isinstance(like, int):
            number = float(text) if not text.lstrip("+-").replace("_", "").isdecimal() else int(text)
            if number != int(number):
                raise ValueError
            return int(number)
        if isinstance(like, float):
            return float(text)
        return _parse_tuple(text, like)
    except (ValueError, KeyError, SyntaxError, OverflowError):
        raise ValueError(f"{flag}={text}: expected {kinds.get(type(like), type(like).__name__)}") from None


def _parse_tuple(text: str, like: tuple[Any, ...]) -> tuple[Any, ...]:
    if like and isinstance(like[0], str) and "'" not in text and '"' not in text:
        return tuple(part.strip() for part in text.strip("()[] ").split(",") if part.strip())
    text = re.sub(r"(?<![\w'\"])[a-z]\w*:[\w.]+(?!['\"])", r"'\g<0>'", text)  # name:value needs no quotes
    value = ast.literal_eval(text) if text.strip() else ()
    return as_tuples(value) if isinstance(value, list | tuple) else (value,)


def _hint(config: ConfigDict, key: str, node: Any, depth: int) -> str:
    """Return the nearest keys to an unknown one, and the keys of its section."""
    place = ".".join(key.split(".")[:depth]) or "the config"
    if not isinstance(node, ConfigDict):
        return f"{place} is a value"
    nearest = nearest_keys(config, key)
    hint = f"Did you mean {' or '.join(nearest)}? " if nearest else ""
    return f"{hint}Keys of {place}: {', '.join(node)}"


def nearest_keys(config: ConfigDict, key: str) -> list[str]:
    """Return the keys that an unknown one may mean, at most three.

    Its sections are mended where they are misspelt. Within the first of them, in this order: the same key, ALIASES, the
    same last part, a similar last part; options of the choice that the key names, or the config makes, before others.
    """
    *sections, last = key.split(".")
    place, node = _sections(config, sections)
    known = [name for name, _ in flatten(config) if not place or name.startswith(f"{place[0]}.")]
    used = in_use(config)
    first = [name for name in known if name in used]
    if len(place) > 1:
        first = [name for name in known if name.startswith(f"{'.'.join(place)}.") or name.count(".") == 1]
    of_guidance = [name for name in used if name.startswith("guidance.") and place[:1] == ["sampler"]]
    inside = [".".join([*place, name]) for name in node]

    def last_of(name: str) -> str:
        return name.rpartition(".")[2]

    def similar(names: list[str]) -> list[str]:
        near = [] if last in ALIASES else difflib.get_close_matches(last, map(last_of, names), 1)
        return list(dict.fromkeys(name for name in names if last_of(name) in near))

    found = (
        [name for name in inside if last_of(name) == last and len(place) == len(sections)],
        _aliased(last, first, place[0] if place else ""),
        _aliased(last, of_guidance, "guidance"),
        *([name for name in names if last_of(name) == last] for names in (first, known)),
        *(similar(names) for names in ([*inside, *first], known)),
    )
    return next((names[:3] for names in found if names), [])


def _sections(config: ConfigDict, sections: list[str]) -> tuple[list[str], ConfigDict]:
    """Return the existing or nearest sections, and the last of them itself."""
    place, node = [], config
    for part in sections:
        inner = [name for name in node if isinstance(node[name], ConfigDict)]
        near = [part] if part in inner else difflib.get_close_matches(part, inner, 1, cutoff=0.8)
        if not near:
            break
        place.append(near[0])
        node = node[near[0]]
    return place, node


def _aliased(last: str, names: list[str], section: str) -> list[str]:
    """Return the `names` that an alias means.

    Without a section these are top-level keys, or keys of the only section that has some.
    """
    found = [name for pattern in ALIASES.get(last, ()) for name in fnmatch.filter(names, pattern)]
    if not section:
        found = [name for name in found if "." not in name] or found
        return found if len({name.partition(".")[0] for name in found}) == 1 else []
    return found


def _add_own_options(section: ConfigDict, key: str, flag: str) -> None:
    """Add the options of a `module:function` to its section, with their defaults."""
    from diffusion_jax.experiment.choices import OWN_OPTIONS, own, signature_options

    if key in OWN_OPTIONS:
        with section.unlocked():
            section[OWN_OPTIONS[key]] = ConfigDict(signature_options(own(flag, section[key])))
