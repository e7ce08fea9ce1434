"""Adversarial loss of generator and discriminator as a single function.

The gradient is right for the parameters of both:

    generator      softplus(-D(G(z))), with the parameters of D held fixed
    discriminator  softplus(D(G(z))) + softplus(-D(x0)) + r1/2 |grad_x D(x0)|², with G(z) held fixed

The gradient of their sum is the gradient of the first loss for the parameters of G and of the second for the parameters
of D, so one step of an optimiser updates both.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffusion_jax.declarations import declare
from diffusion_jax.objective.losses import Batch, Loss
from diffusion_jax.process.base import Array, normal, split_all

Apply = Callable[[Any, Array, Array | None], Array]
"""`apply(params, x [B,…], keys [B] of dropout, or None)`, the output of a generator [B,*D] or a discriminator [B]."""


@declare(adversarial=True)
def gan(generate: Apply, discriminate: Apply, latent_shape: tuple[int, ...], r1: float = 1.0) -> Loss:
    """Non-saturating adversarial loss with the R1 penalty; metrics: generator, discriminator, r1.

    Reference: Goodfellow et al. 2014, section 3; Mescheder et al. 2018, eq. 9.
    """

    def loss(params: Any, batch: Batch, t: Array, keys: Array, dropout: bool = True) -> tuple[Array, dict[str, Array]]:
        x0 = batch["x0"]
        keys_latent, keys_dropout = split_all(keys)
        masks = keys_dropout if dropout else None
        made = generate(params, normal(keys_latent, latent_shape, x0.dtype), masks)
        fooled = discriminate(jax.lax.stop_gradient(params), made, masks)
        of_made = discriminate(params, jax.lax.stop_gradient(made), masks)
        of_real, pullback = jax.vjp(lambda x: discriminate(params, x, masks), x0)
        (slope,) = pullback(jnp.ones_like(of_real))
        metrics = {
            "generator": jax.nn.softplus(-fooled),
            "discriminator": jax.nn.softplus(of_made) + jax.nn.softplus(-of_real),
            "r1": 0.5 * r1 * jnp.square(slope).reshape(len(slope), -1).sum(1),
        }
        return metrics["generator"] + metrics["discriminator"] + metrics["r1"], metrics

    return loss
