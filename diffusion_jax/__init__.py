"""Diffusion models in JAX: noise schedules, denoising networks, samplers and likelihoods.

A process destroys the data, a network predicts what was destroyed, and a sampler runs the process backwards.

    import diffusion_jax as dj

    model = dj.Model(MyNet(), schedule=dj.schedules.cosine(num_steps=1000), target="v")
    run = dj.train(model, images, train_steps=5000, batch_size=128, seed=0)
    x = run.sample(64, sampler=dj.samplers.dpmpp_2m(), num_steps=20, seed=0)

`import diffusion_jax` imports nothing slow: the names below are loaded when they are first used.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = [
    *("Diverged", "Model", "Run", "load", "sample", "show_progress", "train"),
    *("losses", "metrics", "networks", "processes", "samplers", "schedules"),
]


def __getattr__(name: str) -> Any:
    """Load a public name."""
    if name not in __all__:
        raise AttributeError(f"module 'diffusion_jax' has no attribute {name!r}; it has {', '.join(__all__)}")
    if name in ("metrics", "networks"):
        return importlib.import_module(f"diffusion_jax.{name}")
    api = importlib.import_module("diffusion_jax.api")
    return api.namespace(name) if name in api.NAMESPACES else getattr(api, name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(["__doc__", "__version__", *__all__])
