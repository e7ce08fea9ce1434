"""Latent diffusion: a frozen autoencoder between the data and the denoiser.

    z = scale · (mean of q(z | x0)),       x = mean of p(x | z / scale)

Process, target, loss, sampler and guidance see the latents z [B,*L] in place of the data. Reference: Rombach et al.
2022.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from diffusion_jax.experiment import generators
from diffusion_jax.experiment.choices import Instance, refuse
from diffusion_jax.experiment.guidances import UNITS
from diffusion_jax.experiment.sources import make_to_model
from diffusion_jax.process.base import Array


class Autoencoder(NamedTuple):
    """Trained autoencoder of another run."""

    config: ConfigDict
    params: Any
    """Its weights, {"net": …}."""
    scale: float = 1.0
    """Factor that gives the latents of the training data unit variance."""


def opened(config: ConfigDict) -> Autoencoder | None:
    """Return the autoencoder of a config; None without one. Raises ValueError if it was named but not opened."""
    if not config.latent.workdir:
        return None
    found = config.latent.autoencoder
    if not isinstance(found, Instance):
        raise ValueError(
            f"latent.workdir={config.latent.workdir}: is not opened. Call training.autoencoders.attach first"
        )
    made: Autoencoder = found.made
    return made


def check(config: ConfigDict, autoencoder: Autoencoder) -> None:
    """Raise ValueError where a config does not suit its autoencoder. Data, clipping and coupling are checked."""
    where = f"latent.workdir={config.latent.workdir}"
    ours, theirs = (
        {key: data[key] for key in (*UNITS, "dequantise")} for data in (config.data, autoencoder.config.data)
    )
    other = [key for key in ours if ours[key] != theirs[key]]
    refuse(
        (
            other,
            f"{where}: its autoencoder takes data with {', '.join(f'{key}={theirs[key]}' for key in other)}, but this "
            f"run has {', '.join(f'{key}={ours[key]}' for key in other)}. Use an autoencoder of the same data",
        ),
        (config.sampler.clip_x0, f"{where}: latents leave [-1, 1]. Set sampler.clip_x0=False"),
        (config.data.augment, f"{where}: data.augment is for pixels. Use 0"),
        (config.data.coupling != "none", f"{where}: data.coupling={config.data.coupling!r} is for pixels. Use none"),
    )


def inside(config: ConfigDict, autoencoder: Autoencoder | None) -> ConfigDict:
    """Return the config for the denoiser of latents. Without an autoencoder, the config itself."""
    if autoencoder is None or not config.latent.workdir:
        return config
    config = config.copy_and_resolve_references()
    shape = generators.autoencoder(autoencoder.config)["latent_shape"]
    with config.unlocked(), config.ignore_type():
        config.latent.update(workdir="", autoencoder="")
        config.data.update(shape=shape, levels=0, mean=0.0, std=1.0, dequantise=False)
        config.bound.update(decoder="density", clip_x0=False)
    return config


def encoder(config: ConfigDict, autoencoder: Autoencoder) -> Callable[[Array, Array], Array]:
    """Return `into(x [B,*D] as stored, keys [B]) -> z [B,*L]`, the scaled means of the latents."""
    encode, into = generators.autoencoder(autoencoder.config)["encode"], make_to_model(config)
    return lambda x, keys: autoencoder.scale * encode(autoencoder.params, into(x, keys), None)[0]


def decoded(config: ConfigDict, draw: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of samples, `draw`, with its latents decoded; without an autoencoder `draw` itself.

    `draw` returns z [B,*L], or a tuple that starts with it.
    """
    autoencoder = opened(config)
    if autoencoder is None:
        return draw
    generate, params, scale = generators.autoencoder(autoencoder.config)["generate"], *autoencoder[1:]

    def through(*inputs: Any) -> Any:
        drawn = draw(*inputs)
        if isinstance(drawn, tuple):
            return generate(params, drawn[0] / scale, None), *drawn[1:]
        return generate(params, drawn / scale, None)

    return through
