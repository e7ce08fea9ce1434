"""Labels and guides of configs."""

import jax
import jax.numpy as jnp
import pytest
from small_configs import CLASSIFIER, config, zeros

from diffusion_jax.experiment import wiring
from diffusion_jax.process import schedules
from diffusion_jax.process.base import Level


def test_conditional_network_depends_on_the_label():
    c = config(network__name="mlp", network__conditional=True, data__shape=(5,))
    experiment = wiring.build(c)
    params = wiring.init(c, experiment.network, jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), params)
    at = jax.tree.map(lambda x: jnp.full(2, x), schedules.linear(4)(jnp.array(0.5)))
    level = Level(jnp.full(2, 0.5), *at)
    found = experiment.predict(params, jnp.ones((2, 5)), level, jnp.array([1, 2]), None)
    assert float(jnp.abs(found.eps[0] - found.eps[1]).max()) > 1e-4


def test_the_calls_of_a_worse_model_count():
    c = config(network__name="mlp", data__shape=(5,), guidance__name="autoguidance", guidance__scale=2.0)
    worse = config(network__name="mlp", data__shape=(5,), prediction__variance="learned_range", loss__name="hybrid")
    params = zeros(c, worse) | {"guide": zeros(worse)}
    assert wiring.count_calls(c, params, guide=worse) == 2 * 4  # also with more outputs than the model has


GUIDED = {"network__name": "mlp", "data__shape": (5,), "guidance__name": "classifier"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule__name": "cosine"}, "cosine.*linear"),
        ({"schedule__linear__beta_end": 0.1}, "schedule"),
        ({"process__num_steps": 7}, "process"),
        ({"data__classes": 3}, r"data\.classes"),
        ({"loss__name": "simple"}, r"loss\.name"),
    ],
)
def test_a_guide_of_another_process_is_refused(changes, message):
    wiring.build(config(**GUIDED), guide=config(**CLASSIFIER))
    with pytest.raises(ValueError, match=message) as caught:
        wiring.build(config(**GUIDED), guide=config(**CLASSIFIER | changes))
    assert "\n" not in str(caught.value)
