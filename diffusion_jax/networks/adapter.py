"""Adapter that gives any linen module the call of this package's networks.

Networks are called as

    init(key, x, time, label, keys) -> {"params": …}
    apply(variables, x, time, label, keys) -> output

with x [B,*D], time [B], label int [B] or None, and one PRNG key per example in `keys` [B], or None for no dropout. The
built-in networks have this call. `adapt` wraps a module whose `__call__` takes (x, time) or (x, time, label), and, if
they are in its signature, `keys`, and `train`, `training` or `deterministic`. Such a module may use `nn.Dropout`.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion_jax.networks.layers import Array
from diffusion_jax.networks.registry import NETWORKS

MODES = {"train": True, "training": True, "deterministic": False}
"""Parameters of `__call__` that switch dropout, with their value in training."""


class Call(NamedTuple):
    """Inputs of a module's `__call__` beside x and time."""

    label: str = ""
    """Name of the parameter for the class labels; empty for none."""
    label_required: bool = False
    """Whether that parameter has no default: it then gets -1 for "no label" instead of None."""
    keys: bool = False
    """Whether it takes the keys itself."""
    modes: tuple[str, ...] = ()
    """Those of `MODES` that it takes."""


@dataclasses.dataclass(frozen=True)
class AdaptedNetwork:
    """Linen module with the call of this package's networks; made by `adapt`."""

    module: nn.Module
    call: Call
    out_channels: int | None = None
    classifier: bool = False

    def init(self, key: Array, x: Array, time: Array, label: Array | None = None, keys: Array | None = None) -> Any:
        """Return fresh parameters {"params": …}.

        Raises ValueError for variables of other collections, an output of another shape, or dropout without keys.
        """
        variables = dict(self.module.init(key, x, time, **self._inputs(x, label, None)))
        others = sorted(set(variables) - {"params"})
        if others:
            raise ValueError(
                f"network {self._name}: the module has variables in {', '.join(others)}, but only parameters are "
                "trained and saved; use layers without state, such as nn.GroupNorm or nn.LayerNorm for nn.BatchNorm"
            )
        params = {"params": variables.get("params", {})}
        try:
            jax.eval_shape(self.apply, params, x, time, label)
        except flax.errors.InvalidRngError as error:
            raise ValueError(
                f"network {self._name}: the module draws random numbers outside of training; switch dropout off there: "
                "nn.Dropout(rate, deterministic=not self.has_rng('dropout'))"
            ) from error
        return params

    @property
    def takes_label(self) -> bool:
        """True for a module that is conditioned on the class label."""
        return bool(self.call.label)

    def apply(
        self,
        variables: Mapping[str, Any],
        x: Array,
        time: Array,
        label: Array | None = None,
        keys: Array | None = None,
    ) -> Array:
        """Return the output of the module. Raises ValueError where its shape is not the requested shape.

        With keys, the dropout of each example follows from its own key: the module is mapped over the examples, unless
        its `__call__` takes the keys itself.
        """
        if keys is None or self.call.keys:
            output = self._applied(variables, x, time, label, keys, {})
        else:

            def of_one(x: Array, time: Array, label: Array | None, key: Array) -> Array:
                label = None if label is None else label[None]
                return self._applied(variables, x[None], time[None], label, key, {"dropout": key})[0]

            output = jax.vmap(of_one)(x, time, label, keys)
        return output

    def _applied(
        self,
        variables: Mapping[str, Any],
        x: Array,
        time: Array,
        label: Array | None,
        keys: Array | None,
        rngs: dict[str, Array],
    ) -> Array:
        output = self.module.apply(variables, x, time, **self._inputs(x, label, keys), rngs=rngs)
        batch = x.shape[:1] if self.classifier else x.shape[:-1]
        expected = (*batch, self.out_channels or x.shape[-1])
        shape = getattr(output, "shape", type(output).__name__)
        if shape != expected:
            raise ValueError(
                f"network {self._name}: the output has shape {shape} for an input of shape {x.shape}, expected "
                f"{expected}; return one value for each "
                + ("class" if self.classifier else "element of x")
                + (f", with {self.out_channels} channels" if self.out_channels else "")
            )
        return jnp.asarray(output)

    def _inputs(self, x: Array, label: Array | None, keys: Array | None) -> dict[str, Any]:
        """Return the arguments of `__call__` beside x and time."""
        inputs: dict[str, Any] = {name: MODES[name] == (keys is not None) for name in self.call.modes}
        if self.call.keys:
            inputs["keys"] = keys
        if self.call.label:
            missing = label is None and self.call.label_required
            inputs[self.call.label] = jnp.full(len(x), -1, jnp.int32) if missing else label
        return inputs

    @property
    def _name(self) -> str:
        return type(self.module).__name__


def adapt(module: Any, out_channels: int | None = None, classifier: bool = False) -> Any:
    """Return a network with the call of this package.

    A built-in network is returned as it is.

    Args:
        module: a linen module.
        out_channels: channels of the output; None for the channels of x.
        classifier: the output is [B,out_channels], whatever the shape of x.

    Raises ValueError for anything that is no linen module, or has a `__call__` that cannot be called with (x, time) or
    (x, time, label).
    """
    if type(module) in NETWORKS.values():
        return module
    return AdaptedNetwork(module, inspect_call(module), out_channels, classifier)


def inspect_call(module: Any) -> Call:
    """Return what the `__call__` of a linen module takes beside x and time. Raises ValueError if it cannot be used."""
    name = module.__name__ if inspect.isclass(module) else type(module).__name__
    if not isinstance(module, nn.Module):
        hint = f"; call it first: {name}(…)" if inspect.isclass(module) and issubclass(module, nn.Module) else ""
        raise ValueError(f"network {name}: expected a flax.linen.Module{hint}")
    parameters = inspect.signature(module.__call__).parameters
    positional = [p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    reserved = {"keys", *MODES}
    places = [p for p in positional if p.name not in reserved]
    labels = places[2:3] or [p for p in parameters.values() if p.name == "label" and p.kind is p.KEYWORD_ONLY]
    given = {*(p.name for p in places[:2] + labels), *reserved}
    needed = [p for p in parameters.values() if p.default is p.empty]
    unknown = [p.name for p in needed if p.name not in given and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(places) < 2 or [p.name for p in positional[:2]] != [p.name for p in places[:2]] or unknown:
        raise ValueError(
            f"network {name}: __call__ takes ({', '.join(parameters)}), expected (x, time) or (x, time, label), and by "
            f"name keys, {', '.join(MODES)}" + (f"; give {', '.join(unknown)} a default" if unknown else "")
        )
    label = labels[0] if labels else None
    return Call(
        label=label.name if label else "",
        label_required=label is not None and label.default is label.empty,
        keys="keys" in parameters,
        modes=tuple(mode for mode in MODES if mode in parameters),
    )
