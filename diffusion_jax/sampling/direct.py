"""Direct sampling: one network call, x = generate(z) with z ~ N(0, I), of an autoencoder or a generator."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from diffusion_jax.process.base import Array, normal
from diffusion_jax.sampling.base import SamplerStep
from diffusion_jax.sampling.loop import Sampler


def direct() -> SamplerStep:
    """One network call of a model without noise levels. For a variational autoencoder or a GAN."""
    return SamplerStep(None, needs_score=False, direct=True)


@dataclasses.dataclass(frozen=True, eq=False)
class DirectSampler(Sampler):
    """Sampler of a model without noise levels. Row i of a batch depends on seed i alone."""

    generate: Callable[[Any, Array], Array] | None = None
    """`generate(params, z [B,*L]) -> x [B,*D]` in the range of the model."""
    latent_shape: tuple[int, ...] = ()
    """*L, the shape of z."""

    def sample_and_carry(self, params: Any, seeds: Array, label: Array | None = None) -> tuple[Array, Any]:
        """Return (samples [B,*D] for seeds uint32 [B], None)."""
        assert self.generate is not None
        return self.generate(params, normal(jax.vmap(jax.random.key)(seeds), self.latent_shape)), None
