"""Models that draw samples in one network call.

Their parts from a config, and stand-ins for the parts of a denoiser.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from ml_collections import ConfigDict

from diffusion_jax.declarations import Facts, facts_of
from diffusion_jax.experiment.choices import choose, make, options, refuse
from diffusion_jax.experiment.networks import network
from diffusion_jax.experiment.objectives import LOSSES, data_decoder, loss_facts
from diffusion_jax.networks import convolutions
from diffusion_jax.networks.registry import NETWORKS
from diffusion_jax.objective import elbo, gan
from diffusion_jax.objective.losses import Loss
from diffusion_jax.process.base import Array
from diffusion_jax.sampling.direct import DirectSampler
from diffusion_jax.sampling.registry import SAMPLERS


class NoDenoiser:
    """Stand-in for a part of a denoiser. Any use raises ValueError with the message."""

    def __init__(self, message: str) -> None:
        """Keep the message."""
        self._message = message

    def __getattr__(self, name: str) -> Any:
        """Raise ValueError."""
        if name.startswith("__"):
            raise AttributeError(name)
        raise ValueError(self._message)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raise ValueError."""
        raise ValueError(self._message)


class Generator(NamedTuple):
    """Parts of a model that draws samples in one network call."""

    network: Any
    loss: Loss
    sampler: DirectSampler
    terms: elbo.MakeTerms | None
    """Of the bound of an autoencoder, else None."""
    absent: Any
    """Stand-in for every part that such a model lacks."""


def generator(config: ConfigDict) -> Generator:
    """Return the parts of the autoencoder or GAN of a config. Raises ValueError where they do not fit."""
    facts, section, loss = loss_facts(config), config.sampler, f"loss.name={config.loss.name!r}"
    of_network = facts_of(choose("network.name", config.network.name, NETWORKS))
    method = make("sampler.name", section.name, SAMPLERS, options(section))
    suits = [name for name, net in NETWORKS.items() if _kind(facts_of(net)) == _kind(facts)]
    refuse(
        (
            _kind(of_network) != _kind(facts),
            f"{loss}: cannot train network.name={config.network.name!r}. Use {' or '.join(suits)}",
        ),
        (config.network.conditional, f"{loss}: takes no label. Set network.conditional=False"),
        (
            not method.direct,
            f"sampler.name={section.name!r}: needs a denoiser, but {loss} trains a model that draws in one network "
            "call. Use sampler.name=direct",
        ),
        (
            section.num_steps or section.levels or section.times or config.report.sampler_steps,
            "sampler.num_steps, levels and times, report.sampler_steps: have no meaning with sampler.name='direct', "
            "which makes one network call. Leave them",
        ),
        (
            config.guidance.name != "none" or config.guidance.scale != 1,
            f"guidance.name={config.guidance.name!r}: needs a denoiser, but {loss} trains none. Use none",
        ),
    )
    absent = NoDenoiser(
        f"{loss}: this model draws samples in one network call, and has no noise levels and no denoiser. Use sample, "
        "or evaluate with --metrics" + (" or --likelihood=vlb,multi" if facts.autoencoder else "")
    )
    parts = autoencoder(config) if facts.autoencoder else adversarial(config)
    made: Loss = make("loss.name", config.loss.name, LOSSES, options(config.loss), **parts)
    sampler = DirectSampler(
        absent, absent, absent, None, method, absent, tuple(config.data.shape),
        generate=lambda params, z: parts["generate"](params, z, None), latent_shape=parts["latent_shape"],
    )  # fmt: skip
    return Generator(parts["net"], made, sampler, parts.get("terms"), absent)


def _kind(facts: Facts) -> tuple[bool, bool]:
    return facts.autoencoder, facts.adversarial


def autoencoder(config: ConfigDict) -> dict[str, Any]:
    """Return network, encode, generate, terms and latent_shape of the autoencoder of a config."""
    net = network(config, 2 * config.data.shape[-1])
    apply = convolutions.fast(net.apply)

    def gaussian(method: str) -> elbo.Gaussian:
        def of(params: Any, x: Array, keys: Array | None = None) -> tuple[Array, Array]:
            mean, log_var = jnp.split(apply({"params": params["net"]}, x, keys, method=method), 2, axis=-1)
            return mean, jnp.clip(log_var, *elbo.LOG_VAR)

        return of

    encode, decode = gaussian("encode"), gaussian("decode")
    return {
        "net": net,
        "encode": encode,
        "generate": lambda params, z, keys=None: decode(params, z, keys)[0],
        "terms": elbo.make_terms(encode, decode, data_decoder(config), clip=config.data.levels > 0),
        "latent_shape": tuple(net.latent_shape),
    }


def adversarial(config: ConfigDict) -> dict[str, Any]:
    """Return network, generate, discriminate and latent_shape of the GAN of a config."""
    net = network(config, config.data.shape[-1])
    apply = convolutions.fast(net.apply)

    def method(name: str) -> gan.Apply:
        return lambda params, x, keys: apply({"params": params["net"]}, x, keys, method=name)

    shape = tuple(net.latent_shape)
    return {"net": net, "generate": method("generate"), "discriminate": method("discriminate"), "latent_shape": shape}
