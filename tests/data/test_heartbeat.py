"""Binary heartbeats: all there are, and how they are counted."""

import numpy as np
import pytest

from diffusion_jax.data.heartbeat import PHASES, count, heartbeat


def test_every_fifth_bit_is_a_one_and_the_phases_are_even():
    source = heartbeat("train", size=50)
    x0, label = source.read(np.arange(50))
    assert (source.shape, source.levels, source.classes, x0.dtype) == ((20,), 2, 5, np.uint8)
    for bits, phase in zip(x0, label, strict=True):
        assert np.flatnonzero(bits).tolist() == list(range(phase, 20, 5))
    assert np.bincount(label).tolist() == [10] * 5


def test_count_of_valid_heartbeats():
    broken = PHASES[0].copy()
    broken[7] = 1
    found = count(np.stack([PHASES[0], PHASES[0], PHASES[3], broken]))
    assert found == {"heartbeat_valid": 0.75, "heartbeat_rarest_phase": 0.0, "heartbeat_commonest_phase": 0.5}


def test_too_few_examples_raise():
    with pytest.raises(ValueError, match=r"heartbeat\.size"):
        heartbeat("train", size=4)
