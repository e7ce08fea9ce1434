"""Evidence lower bound of a variational autoencoder, q(z | x0) against p(z) p(x0 | z), p(z) = N(0, I).

    -log p(x0) <= KL(q(z | x0) || p(z)) + E[-log p(x0 | z)],       z ~ q(z | x0)

This is the variational bound of a chain of one step whose q is learned: `bound_terms` gives it as such.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp

from diffusion_jax.declarations import declare
from diffusion_jax.objective import bound
from diffusion_jax.objective.decoders import Decoder
from diffusion_jax.objective.losses import Batch, Loss
from diffusion_jax.process.base import Array, normal, split_all

Gaussian = Callable[[Any, Array, Array | None], tuple[Array, Array]]
"""`gaussian(params, x [B,…], keys [B] of dropout, or None) -> (mean, log variance)`, each [B,…]."""
LOG_VAR = (-14.0, 8.0)
"""Range to which log variances are clipped: a standard deviation of 1e-3 is below a grey level of 256."""


class Terms(NamedTuple):
    """Terms of the bound per example, for one draw of z."""

    kl: Array
    """KL of each latent in nats [B,*L], in closed form."""
    nll: Array
    """-log p(x0 | z) in nats [B]."""
    log_ratio: Array
    """log q(z | x0) - log p(z) in nats [B], at the draw."""
    mse: Array
    """(x0 - mean of p(x0 | z))² [B], a mean over dimensions."""


class MakeTerms(Protocol):
    """Function that returns the ELBO terms of a batch."""

    def __call__(self, params: Any, x0: Array, keys: Array, dropout: Array | None = None, /) -> Terms:
        """Return the terms for x0 [B,*D] in the model's range. keys [B]: of z; dropout [B]: keys, or None."""


def make_terms(encode: Gaussian, decode: Gaussian, decoder: Decoder, clip: bool = False) -> MakeTerms:
    """Make the function of the terms. encode: q(z | x0). decode, decoder: parameters and law of p(x0 | z).

    clip: clip the mean of p(x0 | z) to [-1, 1] in the squared error, as samples are; the outermost bins of grey levels
    are open, and their means often lie far outside.
    Reference: Kingma and Welling 2014, eq. 10; Burda et al. 2016, eq. 8 for the weights exp(-nll - log_ratio).
    """

    def terms(params: Any, x0: Array, keys: Array, dropout: Array | None = None) -> Terms:
        mean, log_var = encode(params, x0, dropout)
        noise = normal(keys, mean.shape[1:], mean.dtype)
        z = mean + jnp.exp(0.5 * log_var) * noise
        kl = 0.5 * (mean**2 + jnp.expm1(log_var) - log_var)
        out, out_log_var = decode(params, z, dropout)
        nll = decoder(x0, out, out_log_var)
        shown = jnp.clip(out, -1, 1) if clip else out
        per_example = (
            _flat(nll).sum(1),
            _flat(0.5 * (z**2 - noise**2 - log_var)).sum(1),
            _flat((x0 - shown) ** 2).mean(1),
        )
        return Terms(kl, *per_example)

    return terms


def _flat(x: Array) -> Array:
    return x.reshape(len(x), -1)


@declare(autoencoder=True)
def elbo(terms: MakeTerms, beta: float = 1.0) -> Loss:
    """Negative evidence lower bound in bits/dim, its KL times beta.

    Metrics: kl and nll in bits/dim.

    Reference: Kingma and Welling 2014; Higgins et al. 2017 (beta).
    """

    def loss(params: Any, batch: Batch, t: Array, keys: Array, dropout: bool = True) -> tuple[Array, dict[str, Array]]:
        x0 = batch["x0"]
        keys_latent, keys_dropout = split_all(keys)
        found = terms(params, x0, keys_latent, keys_dropout if dropout else None)
        kl, nll = (bound.bits_per_dim(nats, x0.shape[1:]) for nats in (_flat(found.kl).sum(1), found.nll))
        return nll + beta * kl, {"kl": kl, "nll": nll}

    return loss
