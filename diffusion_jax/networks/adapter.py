"""Adapter of any linen module to the call of this package's networks.

A network of this package is called as `network(x[B,*D], time[B], label[B] or None, keys[B] or None)`, where keys are
PRNG keys for dropout, one per example, or None for no dropout. `adapt` gives that call to a module that takes (x, time)
or (x, time, label), with `train` or `deterministic` if it has one of them.
"""

import dataclasses
import inspect
from typing import Any, cast

import flax.errors
import flax.linen as nn
import jax

from diffusion_jax.networks.layers import Array

POSITIONAL = ("x", "time", "label", "keys")


def adapt(module: nn.Module, out_channels: int) -> Any:
    """Return the module itself if it takes label and keys, else an `Adapter` of it.

    out_channels: channels that the output must have; the other dimensions are those of x. Raises ValueError for a
    module that takes neither x and time.
    """
    parameters = inspect.signature(type(module).__call__).parameters
    names = [name for name in parameters if name != "self"]
    if {"label", "keys"} <= set(names):
        return module
    if len([name for name in names if name not in ("train", "deterministic", "label", "keys")]) < 2:
        raise ValueError(
            f"network {type(module).__name__}: its __call__ takes ({', '.join(names)}); expected (x, time) or "
            "(x, time, label), with train or deterministic if it uses dropout"
        )
    return Adapter(module, out_channels, tuple(names))


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A linen module behind the call of this package's networks."""

    module: nn.Module
    out_channels: int
    names: tuple[str, ...]
    """The arguments of the module's __call__."""

    @property
    def takes_label(self) -> bool:
        """Return True if the module is conditioned on the label."""
        return "label" in self.names or len(self._positional()) > 2

    def init(self, key: Array, x: Array, time: Array, label: Array | None = None, keys: Array | None = None) -> Any:
        """Return {"params": …} for inputs like these. Raises ValueError for other collections or a wrong output."""
        name = type(self.module).__name__
        variables = self.module.init(key, x, time, **self._others(label, None))
        if others := sorted(set(variables) - {"params"}):
            raise ValueError(f"network {name}: has the collections {', '.join(others)}; only params are supported")
        try:
            output = jax.eval_shape(lambda: self.module.apply(variables, x, time, **self._others(label, None)))
        except flax.errors.InvalidRngError as error:
            raise ValueError(
                f"network {name}: draws random numbers outside training; switch dropout off: "
                "nn.Dropout(rate, deterministic=not self.has_rng('dropout'))"
            ) from error
        expected = (*x.shape[:-1], self.out_channels)
        if output.shape != expected:
            raise ValueError(f"network {name}: its output has shape {output.shape[1:]}; expected {expected[1:]}")
        return variables if "params" in variables else {"params": {}}

    def apply(
        self, variables: Any, x: Array, time: Array, label: Array | None = None, keys: Array | None = None
    ) -> Array:
        """Return the output [B,*D]. keys: one per example, on which alone its dropout depends; None: no dropout."""
        if keys is None:
            return cast(Array, self.module.apply(variables, x, time, **self._others(label, False)))

        def one(x: Array, time: Array, label: Array | None, key: Array) -> Array:
            label = None if label is None else label[None]
            rngs = {"dropout": key}
            return self.module.apply(variables, x[None], time[None], **self._others(label, True), rngs=rngs)[0]

        return jax.vmap(one, in_axes=(0, 0, None if label is None else 0, 0))(x, time, label, keys)

    def _positional(self) -> list[str]:
        return [name for name in self.names if name not in ("train", "deterministic", "keys")]

    def _others(self, label: Array | None, train: bool | None) -> dict[str, Any]:
        """Arguments by name beside x and time. train: None counts as False."""
        given: dict[str, Any] = {}
        if self.takes_label:
            given[self._positional()[2]] = label
        if "train" in self.names:
            given["train"] = bool(train)
        if "deterministic" in self.names:
            given["deterministic"] = not train
        return given
