"""Networks: flax.linen modules that predict what the forward process destroyed."""

import importlib
from typing import Any

MODULES = {
    "UNet": "unet",
    "NCSNpp": "ncsnpp",
    "NCSN": "ncsn",
    "NCSNv2": "ncsn",
    "VDMUNet": "vdm",
    "DiT": "dit",
    "MLP": "mlp",
    "RBF": "rbf",
    "SequenceMLP": "sequence_mlp",
    "MultiScale": "multiscale",
    "Encoder": "encoder",
}
"""The module of each network."""


def __getattr__(name: str) -> Any:
    """Load a network when it is first used."""
    if name not in MODULES:
        raise AttributeError(f"module 'diffusion_jax.networks' has no attribute {name!r}; it has {', '.join(MODULES)}")
    return getattr(importlib.import_module(f"diffusion_jax.networks.{MODULES[name]}"), name)


def __dir__() -> list[str]:
    """List the networks."""
    return [*globals(), *MODULES]
