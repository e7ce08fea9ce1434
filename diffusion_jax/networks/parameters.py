"""Shapes of a network's parameters, and their comparison with arrays from elsewhere."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import traverse_util

Path = tuple[str, ...]
"""The place of a parameter in its tree, e.g. ("conv0", "kernel")."""


def parameter_shapes(network: nn.Module, *inputs: Any) -> dict[Path, tuple[int, ...]]:
    """Return the shapes of a network's parameters by path, for inputs.

    The inputs are arrays or shapes. The network is traced, not computed.
    """
    params = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    return {path: value.shape for path, value in traverse_util.flatten_dict(params).items()}


def check_shapes(what: str, arrays: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless the arrays have exactly the expected names and shapes.

    what: what the arrays are, in the plural, for the message, which names the first three of each kind of difference.
    """
    missing = sorted(expected.keys() - arrays.keys())
    extra = sorted(arrays.keys() - expected.keys())
    misshapen = [
        f"{name} {arrays[name].shape} instead of {expected[name]}"
        for name in sorted(expected.keys() & arrays.keys())
        if arrays[name].shape != expected[name]
    ]
    faults = [
        f"{len(names)} {fault} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for fault, names in (("missing", missing), ("unknown", extra), ("of another shape", misshapen))
        if names
    ]
    if faults:
        raise ValueError(f"{what} do not fit the network: {'; '.join(faults)}. Check the network's options")


def check_finite(what: str, arrays: Mapping[str, Any], advice: str) -> None:
    """Raise ValueError if arrays are not finite, with the first three names. `what` as in `check_shapes`."""
    bad = [name for name, value in arrays.items() if not np.isfinite(np.asarray(value, np.float32)).all()]
    if bad:
        names = f"{', '.join(bad[:3])}{', ...' if len(bad) > 3 else ''}"
        raise ValueError(f"{what}: {len(bad)} of {len(arrays)} tensors are not finite ({names}). {advice}")
