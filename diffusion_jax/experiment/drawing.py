"""Samples of a model, drawn in tiles on all devices."""

from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import devices
from diffusion_jax.experiment import latents, sources, wiring
from diffusion_jax.sampling.loop import Sampler


def samples(config: ConfigDict, sampler: Sampler, complete: bool = False) -> Callable[..., np.ndarray]:
    """Return `draw(params, seeds [N], label=None) -> [N,*D]`, samples in the levels of the data.

    label [N]: classes to draw; None: the classes that the sampler draws for the seeds, if the model takes any. No
    sample depends on the number of samples or devices. Raises FloatingPointError for samples that are not finite;
    complete: also where an adaptive sampler did not reach its tolerance in the allowed network calls.
    """
    walk = sampler.sample_and_status if sampler.method.adaptive else sampler.sample
    sample = devices.TiledMap(latents.decoded(config, walk), config.sampler.tile, name="samples")

    def draw(params: Any, seeds: np.ndarray, label: np.ndarray | None = None) -> np.ndarray:
        each = (seeds.astype(np.uint32),) if label is None else (seeds.astype(np.uint32), label.astype(np.int32))
        drawn = sample(params, *each)
        x, solved = drawn if sampler.method.adaptive else (drawn, np.ones(len(drawn), bool))
        if complete and not solved.all():
            name = config.sampler.name
            raise FloatingPointError(
                f"sampler.name={name!r}: {(~solved).sum()} of {len(x)} samples are not solved to "
                f"{sampler.method.settings}; raise sampler.{name}.max_calls, or rtol and atol"
            )
        return sources.make_from_model(config)(x)

    return draw


def quick_samples(config: ConfigDict) -> Callable[[Any, np.ndarray], np.ndarray]:
    """Return `samples` in report.sampler_steps steps where that is set."""
    quick = config.copy_and_resolve_references()
    with quick.unlocked():
        if config.report.sampler_steps:
            quick.sampler.update(num_steps=config.report.sampler_steps, levels=(), times=())
    return samples(config, wiring.build(quick).sampler)
