"""The adversarial loss: its gradient against two losses differentiated apart, and its penalty against a known slope."""

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.objective import gan
from diffusion_jax.process.base import normal

KEYS = jax.random.split(jax.random.key(0), 6)


def generate(params, z, keys=None):
    return jnp.tanh(z @ params["g"]["in"]) @ params["g"]["out"]


def discriminate(params, x, keys=None):
    return (jnp.tanh(x @ params["d"]["in"]) @ params["d"]["out"])[:, 0]


def drawn(shapes, seed):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}


def test_gradient_is_that_of_two_losses_differentiated_apart(x64):
    params = {"g": drawn({"in": (2, 5), "out": (5, 3)}, 0), "d": drawn({"in": (3, 4), "out": (4, 1)}, 1)}
    x0, r1 = jnp.asarray(np.random.default_rng(2).normal(size=(6, 3))), 0.7
    loss = gan.gan(generate, discriminate, (2,), r1)
    found = jax.grad(lambda p: loss(p, {"x0": x0}, None, KEYS)[0].sum())(params)

    z = normal(jax.vmap(jax.random.split)(KEYS)[:, 0], (2,), jnp.float64)

    def of_generator(g):
        return -jnp.log(jax.nn.sigmoid(discriminate(params, generate({"g": g}, z)))).sum()

    def of_discriminator(d):
        def logit(x):
            return discriminate({"d": d}, x[None])[0]

        real, made = jax.nn.sigmoid(jax.vmap(logit)(x0)), jax.nn.sigmoid(jax.vmap(logit)(generate(params, z)))
        return -(jnp.log(real) + jnp.log(1 - made)).sum() + r1 / 2 * (jax.vmap(jax.grad(logit))(x0) ** 2).sum()

    expected = {"g": jax.grad(of_generator)(params["g"]), "d": jax.grad(of_discriminator)(params["d"])}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12), found, expected)


def test_penalty_of_a_quadratic_discriminator(x64):
    a, b = drawn({"a": (3,), "b": (3, 3)}, 0).values()
    x0 = jnp.asarray(np.random.default_rng(1).normal(size=(6, 3)))

    def quadratic(params, x, keys=None):
        return x @ a + 0.5 * jnp.einsum("bi,ij,bj->b", x, b + b.T, x)

    loss = gan.gan(lambda params, z, keys: z, quadratic, (3,), 0.6)
    total, metrics = loss({}, {"x0": x0}, None, KEYS, dropout=False)
    np.testing.assert_allclose(metrics["r1"], 0.3 * ((a + x0 @ (b + b.T)) ** 2).sum(1), rtol=1e-12)
    np.testing.assert_allclose(total, sum(metrics.values()), rtol=1e-12)
