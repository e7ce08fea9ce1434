"""Read and write configs as trees of keys."""

from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.config.schema import choices


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of a nested config, lists as tuples."""
    for key, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", as_tuples(value)


def put(config: ConfigDict, key: str, value: Any) -> None:
    """Set a dotted key, sections made as needed, a change of type allowed."""
    *sections, last = key.split(".")
    node = config
    for section in sections:
        if section not in node:
            with node.unlocked():
                node[section] = ConfigDict()
        node = node[section]
    with node.unlocked(), node.ignore_type():
        node[last] = value


def plain(config: Mapping[str, Any] | ConfigDict) -> dict[str, Any]:
    """Return a config as nested dicts of JSON's types, with objects by name."""

    def value(item: Any) -> Any:
        if isinstance(item, Mapping | ConfigDict):
            return {key: value(inner) for key, inner in item.items()}
        return getattr(item, "spelling", item)

    nested: dict[str, Any] = value(config)
    return nested


def in_use(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flat config without the options of choices that are not made."""
    from diffusion_jax.experiment.choices import OWN_OPTIONS

    flat = dict(flatten(config))

    def used(key: str) -> bool:
        section, _, rest = key.partition(".")
        name, _, option = rest.partition(".")
        if not option or section not in (*choices(), "guidance"):
            return True
        chosen = {flat.get(f"{section}.{choice}") for choice in OWN_OPTIONS}
        return name in chosen or name in OWN_OPTIONS.values()

    return {key: value for key, value in flat.items() if used(key)}


def as_tuples(value: Any) -> Any:
    """Return a tree with tuples for lists, which JSON makes of them."""
    if isinstance(value, Mapping):
        return {key: as_tuples(item) for key, item in value.items()}
    return tuple(as_tuples(item) for item in value) if isinstance(value, list | tuple) else value
