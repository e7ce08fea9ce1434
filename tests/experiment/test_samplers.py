"""Samplers of configs: calls of the network, grids, clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_configs import CONTINUOUS, config

from diffusion_jax.declarations import facts_of
from diffusion_jax.experiment import paths, samplers, wiring
from diffusion_jax.objective.targets import TARGETS
from diffusion_jax.sampling.registry import SAMPLERS

MEAN_FLOW = {"process__num_steps": 0, "schedule__name": "rectified_flow", "prediction__target": "velocity"}
MEAN_FLOW |= {"loss__name": "mean_flow", "network__conditioning": "time", "sampler__num_steps": 4}
CALLS = {"ode_heun": 2, "edm": 2, "predictor_corrector": 2, "annealed_langevin": 2}
"""Calls of a step that ends with noise, in the tiny variant; the last one takes 1."""


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ("dopri5", "direct")])
def test_every_sampler_builds_and_its_calls_are_counted(name):
    """One U-Net call a step, or as many as the method has, and never two at the last step; VE has one more, to x0."""
    changes = MEAN_FLOW if name == "mean_flow" else {}
    c = config(network__name="mlp", data__shape=(5,), sampler__name=name, **changes)
    params = wiring.init(c, wiring.build(c).network, jax.random.key(0))
    assert wiring.count_calls(c, params) == 3 * CALLS.get(name, 1) + 1
    if name in ("edm", "unipc"):
        changes = CONTINUOUS | {"schedule__name": "ve", "sampler__grid": "karras", "sampler__name": name}
        c = config(network__name="mlp", data__shape=(5,), **changes)
        assert wiring.count_calls(c, params) == 5 * CALLS.get(name, 1) + 1


def test_grids_of_a_chain_end_at_its_first_level_and_then_without_noise():
    for grid in ("logsnr", "karras", "quadratic"):
        c = config(sampler__grid=grid, sampler__name="dpmpp_2m", process__num_steps=100, sampler__num_steps=7)
        t = wiring.build(c).sampler.coefficients(None)
        np.testing.assert_allclose([t.at.t[0], t.at.t[-1], t.to.t[-1]], [1, 0.01, 0], atol=1e-15)
        assert len(t.at.t) == 7 and np.isneginf(t.to.log_sigma[-1])
    c = config(sampler__times=(1.0, 0.3, 0.0), sampler__num_steps=1)
    np.testing.assert_array_equal(wiring.build(c).sampler.coefficients(None).at.t, [1.0, 0.3])


def test_a_grid_even_in_logsnr_waits_until_a_learned_schedule_is_frozen():
    c = config(schedule__name="learned_gamma", loss__name="K", sampler__name="ddim", sampler__num_steps=5)
    params = {"schedule": paths.initial_schedule_params(c, jax.random.key(0))}
    c.sampler.grid = "logsnr"
    with pytest.raises(ValueError, match=r"sampler\.grid"):
        wiring.build(c)
    rows = wiring.build(c, params).sampler.coefficients(None)
    logsnr = (rows.at.log_alpha - rows.at.log_sigma)[:5]  # down to the first level of the chain of four, then to t = 0
    assert rows.at.t[0] == 1 and rows.at.t[4] == pytest.approx(0.25)
    np.testing.assert_allclose(np.diff(logsnr, 2), 0, atol=1e-6)


@pytest.mark.parametrize("target", [name for name, make in TARGETS.items() if facts_of(make).chain])
def test_targets_of_a_chain_have_no_meaning_between_levels(target):
    chain = {
        "process__num_steps": 100,
        "sampler__num_steps": 7,
        "prediction__target": target,
        "sampler__clip_x0": False,
    }
    if target == "dpm2015_paper":
        chain |= {"prediction__variance": target, "loss__name": "K"}
    with pytest.raises(ValueError, match=f"prediction.target='{target}'"):
        wiring.build(config(**chain, sampler__grid="quadratic", sampler__name="ddim"))
    with pytest.raises(ValueError, match=r"sampler.levels"):
        wiring.build(config(**chain, sampler__name="edm", sampler__edm__churn=10.0))
    with pytest.raises(ValueError, match=f"prediction.target='{target}'"):
        wiring.build(config(**chain, sampler__name="dopri5"))


@pytest.mark.parametrize(
    "grid, variance", [("uniform", "fixed_large"), ("uniform", "learned_diagonal"), ("quadratic", "fixed_large")]
)
def test_the_default_number_of_steps_is_that_of_the_chain_down_to_min_t(grid, variance):
    c = config(process__num_steps=8, sampler__min_t=0.25, sampler__grid=grid, sampler__denoise=False)
    c.prediction.variance, c.loss.name = variance, "simple" if variance == "fixed_large" else "vlb"
    rows = wiring.build(c).sampler.coefficients(None)
    assert samplers.number_of_steps(c) == len(rows.at.t) == 6
    assert rows.at.t[0] == 1 and rows.to.t[-1] == pytest.approx(0.25)
    c.sampler.num_steps = 7
    if grid == "uniform":
        with pytest.raises(ValueError, match=r"sampler\.num_steps=7"):
            wiring.build(c)


@pytest.mark.parametrize(("target", "clips"), [("eps", True), ("posterior_mean", False)])
def test_x0_is_clipped_in_sampling_and_in_the_bound_unless_it_only_follows_from_the_mean(target, clips):
    x = jnp.linspace(-9, 9, 10).reshape(2, 5)
    guesses = []
    for clip in (True, False):
        c = config(network__name="mlp", data__shape=(5,), prediction__target=target, sampler__clip_x0=clip)
        experiment = wiring.build(c)
        params = wiring.init(c, experiment.network, jax.random.key(0))
        start = jax.tree.map(lambda field: jnp.float32(field[0]), experiment.sampler.coefficients(params).at)
        guesses.append(np.asarray(experiment.sampler.predict_x0(params, x, start)))
        assert samplers.clips_x0(c, c.sampler) == (clip and clips)
        assert samplers.clips_x0(c, c.bound) == clips
    assert np.abs(guesses[1]).max() > 2
    np.testing.assert_array_equal(guesses[0], guesses[1].clip(-1, 1) if clips else guesses[1])
