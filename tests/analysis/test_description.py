"""`main describe`: sizes and FLOPs without training."""

import jax
import jax.numpy as jnp

from diffusion_jax import config as configs
from diffusion_jax.analysis.description import describe, flops
from diffusion_jax.experiment import wiring
from diffusion_jax.networks import convolutions, layers


def test_describe_counts_without_compiling():
    config = configs.variant(configs.defaults(), "tiny")
    config.data.update(shape=(8, 8, 1), levels=17, classes=10)
    text, figures = describe(config)
    params = wiring.parameters(config, wiring.build(config).network)
    assert figures["parameters"] == sum(x.size for x in jax.tree.leaves(params))
    assert figures["train_step_flops"] > 0 and figures["activation_bytes"] > 0
    # parameters, one average and Adam's two moments, all float32, and a few counters
    assert 0 <= figures["state_bytes"] - 4 * 4 * figures["parameters"] < 100
    assert figures["schedule_ends"]["t=0"] == {"alpha": 1.0, "sigma": 0.0}
    for word in ("parameters", "GFLOP", "arithmetic", "schedule", "devices"):
        assert word in text
    _, compiled = describe(config, compile=True)
    assert compiled["compiled_bytes"] > figures["state_bytes"]


def test_models_without_noise_levels_have_no_schedule():
    config = configs.load("digits_vae:tiny")
    config.data.update(shape=(8, 8, 1), levels=17)
    config.process.num_steps = 0
    text, figures = describe(config)
    assert "schedule_ends" not in figures and "alpha" not in text


def test_flops_are_those_of_plain_convolutions_on_a_cpu_too():
    n = convolutions.MIN_CHANNELS
    x = jax.ShapeDtypeStruct((2, 16, 16, n), jnp.float32)
    layer = layers.conv(n, jnp.float32, None)
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    kernel = jax.ShapeDtypeStruct((3, 3, n, n), jnp.float32)
    bias = 2 * 16 * 16 * n
    assert flops(convolutions.fast(layer.apply), params, x) == flops(convolutions.direct, x, kernel) + bias
