"""Bits-back coding: what goes in comes out, and the length of the code is that of the chain."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax.likelihood import bits_back

LEVELS = 16
ALPHA = np.array([0.99, 0.9, 0.6, 0.2])
SIGMA = np.sqrt(1 - ALPHA**2)
RATIO = ALPHA[1:] / ALPHA[:-1]
STEP = np.sqrt(SIGMA[1:] ** 2 - RATIO**2 * SIGMA[:-1] ** 2)
POSTERIOR = STEP * SIGMA[:-1] / SIGMA[1:]
SCALE, STD = np.append(ALPHA[0], RATIO), np.append(SIGMA[0], STEP)
CHAIN = bits_back.Chain(SCALE, STD, bits_back.grid_spacing(STD, POSTERIOR), 1.0)


def in_range(x):
    return np.asarray(x) * (2 / (LEVELS - 1)) - 1


def kernel(slope):
    """A reverse kernel: mean slope · z."""
    return lambda k, z: (np.float32(slope * z), np.full(z.shape, 1.5 * POSTERIOR[k - 1], np.float32))


def probabilities(z):
    """A decoder."""
    logits = -((z[..., None] / ALPHA[0] - in_range(np.arange(LEVELS))) ** 2) / 0.1
    mass = np.exp(logits - logits.max(-1, keepdims=True))
    return np.float32(mass / mass.sum(-1, keepdims=True))


def random_stack(seed, words=4000):
    return bits_back.Stack(np.random.default_rng(seed).integers(1, 2**32, words, dtype=np.uint32))


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    size=st.integers(1, 5),
    dims=st.integers(1, 40),
    slope=st.sampled_from([0.9, -3.0, 1e3, 1e7]),  # the last ones put every latent far outside the range of the coder
    seed=st.integers(0, 99),
)
def test_decoding_inverts_encoding_and_leaves_the_stack_as_it_was(size, dims, slope, seed):
    x = np.random.default_rng(seed).integers(0, LEVELS, (size, dims))
    stack = random_stack(seed)
    before = stack.words()
    bits_back.encode(stack, x, in_range(x), CHAIN, kernel(slope), probabilities)
    assert 0 < stack.least < len(before)
    trimmed = bits_back.Stack(stack.words()[stack.least :])
    *_, (_, found) = bits_back.decode(trimmed, x.shape, in_range, CHAIN, kernel(slope), probabilities)
    np.testing.assert_array_equal(found, x)
    np.testing.assert_array_equal(trimmed.words(), before[stack.least :])


def test_the_length_of_the_code_is_the_bound():
    """Against E[log q(path) - log p(path)] of the continuous chain, in bits per dimension, drawn here."""
    generator, draws = np.random.default_rng(1), 200_000
    slope = RATIO  # of the kernel of each step; a good one

    def good(k, z):
        return np.float32(slope[k - 1] * z), np.full(z.shape, 1.2 * POSTERIOR[k - 1], np.float32)

    def log_normal(value, mean, std):
        return -0.5 * ((value - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)

    x = generator.integers(0, LEVELS, draws)
    below, mean, nats = None, SCALE[0] * in_range(x), np.zeros(draws)
    for k in range(len(SCALE)):
        z = mean + STD[k] * generator.standard_normal(draws)
        nats += log_normal(z, mean, STD[k])
        if k == 0:
            nats -= np.log(probabilities(z)[np.arange(draws), x])
        else:
            nats -= log_normal(below, slope[k - 1] * z, 1.2 * POSTERIOR[k - 1])
        below, mean = z, SCALE[min(k + 1, len(SCALE) - 1)] * z
    bits = (nats - log_normal(below, 0, 1.0)) / np.log(2)

    stack, x = random_stack(2, 400_000), x.reshape(10, -1)
    before = stack.bits
    bits_back.encode(stack, x, in_range(x), CHAIN, good, probabilities)
    error = bits.std() * np.sqrt(2 / draws)
    assert (stack.bits - before) / draws == pytest.approx(bits.mean(), abs=4 * error)


def test_symbols_of_any_size_are_escaped():
    stack, far = random_stack(3), np.array([0, 7, -7, 10**6, -(10**9), 2**40])
    mean, std = np.full(6, 0.4), np.linspace(0.5, 2, 6)
    before = stack.words()
    stack.push(far, mean, std)
    np.testing.assert_array_equal(stack.pop(mean, std), far)
    np.testing.assert_array_equal(stack.words(), before)
