"""What every part of the wiring shares: a name looked up, and the options that stand beside it."""

import difflib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

LEARNED = ("learned_diagonal", "learned_range", "dpm2015_paper", "dpm2015_code")
"""Reverse variances that the network's head gives."""


BOUND_LOSSES = ("vlb", "hybrid", "K")
"""Losses with a term of a variational bound; the others are the weights of a squared error."""


NEED_CHAIN = "a chain: set process.num_steps to its number of steps, 1000 for example"


def choose(section: str, name: str, table: Mapping[str, Any]) -> Any:
    """`table[name]`, or a ValueError that names the section, what is allowed and the nearest name."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"{section}={name!r} is not known{hint}; use one of {', '.join(table)}")


def options(section: ConfigDict) -> dict[str, Any]:
    """The options of the choice that a section makes."""
    return dict(section.get(section.name, {}))
