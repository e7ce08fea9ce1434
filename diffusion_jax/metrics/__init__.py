"""Sample-quality metrics."""

from diffusion_jax.metrics.parzen_window import parzen

__all__ = ["parzen"]
