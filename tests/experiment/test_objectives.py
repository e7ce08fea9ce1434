"""Losses of configs on data at rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_configs import CLASSIFIER, CONTINUOUS, LEVELS, MASKED, config, loss_at_rest, zeros

from diffusion_jax import config as configs
from diffusion_jax.experiment import wiring
from diffusion_jax.objective.targets import TARGETS
from diffusion_jax.process import base as process_base


@pytest.mark.slow
@pytest.mark.parametrize("choices", [LEVELS, MASKED], ids=["uniform", "absorbing"])
@pytest.mark.parametrize("shape", [(5,), (4, 4, 2)])
def test_models_of_levels_have_a_loss_and_samples_of_their_levels(choices, shape):
    network = {"network__name": "mlp"} if len(shape) == 1 else {"network__unet__channels": 8}
    c = config(**choices, **network, data__levels=3, data__shape=shape, network__unet__multipliers=(1,))
    experiment = wiring.build(c)
    params = wiring.init(c, experiment.network, jax.random.key(0))
    rows = {"x0": jnp.full((4, *shape), 2, jnp.uint8), "label": jnp.zeros(4, jnp.int32), "index": jnp.arange(4)}
    loss, _ = loss_at_rest(experiment, params, rows, jnp.arange(1, 5) / 4, jax.random.split(jax.random.key(1), 4))
    assert loss.shape == (4,) and np.isfinite(loss).all()
    assert wiring.count_calls(c, params) == 4
    samples = experiment.sampler.sample(params, jnp.arange(3, dtype=jnp.uint32))
    assert samples.shape == (3, *shape) and set(np.unique(samples)) <= {-1.0, 0.0, 1.0}
    prediction = experiment.predict(params, samples, process_base.level(experiment.schedule(params), jnp.full(3, 0.5)))
    assert prediction.log_probs.shape == (3, *shape, 3)
    np.testing.assert_allclose(np.exp(prediction.log_probs).sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize(("name", "calls"), [("ncsn", 10 * 100), ("ncsnv2", 232 * 5 + 1)])
def test_the_recipes_of_scores_weigh_all_levels_alike_and_visit_them_all(name, calls):
    """sigma²/2 |score + noise/sigma|² (Song and Ermon 2019, eq. 5, 6) of a score that is 0 is D/2 on average."""
    c = configs.load(f"cifar10_{name}")
    assert wiring.count_calls(c, zeros(c)) == calls
    experiment = wiring.build(c, wrap=lambda real: lambda variables, x, *others: jnp.zeros_like(x))
    rows = {"x0": jnp.full((8, 32, 32, 3), 128, jnp.uint8), "label": jnp.zeros(8, jnp.int32), "index": jnp.arange(8)}
    t = jnp.array([1, 1, 2, 2, 5, 5, 10, 10]) / c.process.num_steps
    found, _ = loss_at_rest(experiment, {"net": {}}, rows, t, jax.random.split(jax.random.key(1), 8))
    np.testing.assert_allclose(found, 32 * 32 * 3 / 2, rtol=4.5 * (2 / (32 * 32 * 3)) ** 0.5)


def test_noise_is_learned_where_no_signal_is_left_and_sampled_from_below():
    """A chain with alpha(1) = 0, such as "jsd" of Ho's code: |noise - output|² at t = 1; samples start below t = 1."""
    chain = {"schedule__name": "harmonic", "network__name": "mlp", "data__shape": (5,)}
    c = config(**chain, sampler__levels=(3, 2, 1))
    experiment = wiring.build(c, wrap=lambda real: lambda variables, x, *others: 0 * x)
    rows = {"x0": jnp.full((4, 5), 16, jnp.uint8), "label": jnp.zeros(4, jnp.int32), "index": jnp.arange(4)}
    keys = jax.random.split(jax.random.key(1), 4)
    early, late = (loss_at_rest(experiment, {"net": {}}, rows, jnp.full(4, t), keys)[0] for t in (0.75, 1.0))
    np.testing.assert_allclose(late, early, rtol=1e-5)  # of the same noise
    assert np.isfinite(experiment.sampler.sample({"net": {}}, jnp.arange(2, dtype=jnp.uint32))).all()
    for changes in ({}, {"loss__name": "snr", "sampler__levels": (3, 2, 1)}, {"loss__name": "vlb"}):
        with pytest.raises(ValueError, match=r"prediction\.target") as caught:
            wiring.build(config(**chain, **changes))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("weight", ["simple", "min_snr", "K"])
def test_every_target_gives_a_finite_loss_from_data_at_rest(target, weight):
    if target == "dpm2015_paper" and weight != "K":
        return
    variance = target if target.startswith("dpm2015") and weight == "K" else "fixed_large"
    choices = {"prediction__variance": variance, "prediction__target": target, "loss__name": weight}
    c = config(**choices, network__name="mlp", data__shape=(5,))
    experiment = wiring.build(c)
    params = wiring.init(c, experiment.network, jax.random.key(0))
    rows = {"x0": jnp.full((4, 5), 16, jnp.uint8), "label": jnp.zeros(4, jnp.int32), "index": jnp.arange(4)}
    loss, _ = loss_at_rest(experiment, params, rows, jnp.arange(1, 5) / 4, jax.random.split(jax.random.key(1), 4))
    assert loss.shape == (4,) and np.isfinite(loss).all()


def test_a_classifier_learns_the_class_of_noisy_examples():
    """Its loss on data at rest is log(classes) to begin with, and 0 where there is no label."""
    experiment = wiring.build(config(**CLASSIFIER))
    params = wiring.init(config(**CLASSIFIER), experiment.network, jax.random.key(0))
    rows = {"x0": jnp.full((4, 5), 16, jnp.uint8), "label": jnp.array([0, 3, 9, -1]), "index": jnp.arange(4)}
    keys = jax.random.split(jax.random.key(1), 4)
    loss, metrics = loss_at_rest(experiment, params, rows, jnp.arange(1, 5) / 4, keys)
    np.testing.assert_allclose(loss[:3], np.log(10), atol=1e-3)
    assert loss[3] == 0 and metrics["accuracy"].shape == (4,)


CONTINUOUS_LOSSES = [
    {"loss__name": "likelihood"},
    {"loss__name": "edm", "prediction__target": "edm", "prediction__input_scaling": "unit_variance"},
    {"loss__name": "edm", "times__name": "log_normal", "schedule__name": "edm", "network__conditioning": "log_sigma"},
    {"loss__name": "vdm", "schedule__name": "learned_gamma", "bound__decoder": "softmax"},
    {"loss__name": "snr", "loss__reduction": "half_sum", "schedule__name": "ve", "network__conditioning": "log_sigma"},
]


@pytest.mark.parametrize("changes", CONTINUOUS_LOSSES)
def test_continuous_training_gives_a_finite_loss(changes):
    c = config(**CONTINUOUS | {"network__name": "mlp", "data__shape": (5,), "times__min_t": 0.0} | changes)
    experiment = wiring.build(c)
    params = wiring.init(c, experiment.network, jax.random.key(0))
    rows = {"x0": jnp.full((4, 5), 16, jnp.uint8), "label": jnp.zeros(4, jnp.int32), "index": jnp.arange(4)}
    t, _ = experiment.times.sample(None, jax.random.key(2), rows["index"], 4)
    loss, metrics = loss_at_rest(experiment, params, rows, t, jax.random.split(jax.random.key(1), 4))
    assert np.isfinite(loss).all() and np.all(loss > 0) and np.all((t >= 0) & (t <= 1))
    if c.loss.name == "vdm":
        mean = jax.jit(
            jax.grad(
                lambda params: loss_at_rest(experiment, params, rows, t, jax.random.split(jax.random.key(1), 4))[
                    0
                ].mean()
            )
        )
        assert all(value != 0 for value in mean(params)["schedule"].values())
    assert list(metrics) == (["diffusion", "prior", "reconstruction"] if c.loss.name == "vdm" else ["mse"])


@pytest.mark.parametrize(("schedule", "names"), [("linear", {"vlb"}), ("linear_logsnr", {"vlb", "ends"})])
def test_the_loss_vlb_is_the_whole_bound(schedule, names):
    """Terms of no step are in it where the schedule starts with noise, as their sum is then no rounding error."""
    c = config(loss__name="vlb", schedule__name=schedule, network__name="mlp", data__shape=(5,))
    c.schedule.linear_logsnr.gamma_min = -2.0
    experiment = wiring.build(c)
    batch = {"x0": jnp.zeros((2, 5)), "label": jnp.full(2, -1), "index": jnp.arange(2)}
    params = wiring.init(c, experiment.network, jax.random.key(0))
    loss, metrics = experiment.loss(params, batch, jnp.array([0.5, 1.0]), jax.random.split(jax.random.key(1), 2))
    assert set(metrics) == names
    np.testing.assert_allclose(loss, sum(metrics.values()), rtol=1e-6)
    if "ends" in names:
        path = experiment.schedule(params)
        nats = experiment.process.prior_kl(path, batch["x0"])
        assert (metrics["ends"] > nats / (5 * np.log(2))).all()  # and the decoder's bits
