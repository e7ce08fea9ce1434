"""The train step: the same numbers however the work is laid out, EMA, clipping, and updates that are not finite."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_jax import devices
from diffusion_jax.networks.unet import UNet
from diffusion_jax.objective import conditionings, losses, prediction, targets, time_sampling
from diffusion_jax.process import schedules
from diffusion_jax.process.gaussian import GaussianProcess
from diffusion_jax.training import state, step

STEPS = 50
BATCH = 16
UPDATES = 10


def unet(dropout=0.2):
    return UNet(out_channels=1, channels=8, multipliers=(1,), blocks=1, attention=(), dropout=dropout, dtype="float64")


@pytest.fixture(scope="module", autouse=True)
def float64():
    """float64, as the layout of work is an identity that rounding in float32 would blur."""
    with jax.enable_x64(True):
        yield


def make_loss(network):
    schedule = schedules.cosine(STEPS)
    predict = prediction.make_denoiser(
        network.apply, lambda params: schedule, targets.eps(), conditionings.step_conditioning(STEPS)
    )
    term = losses.weighted_mse(lambda params: schedule, targets.eps(), losses.simple())
    loss = losses.weighted_sum(predict, GaussianProcess(), lambda params: schedule, {"mse": (1.0, term)})

    def in_float64(params, batch, t, keys, **options):  # times are drawn in float32
        return loss(params, batch, t.astype(jnp.float64), keys, **options)

    return in_float64


TIMES = time_sampling.importance(STEPS, window=1)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.linear_schedule(0.0, 1e-3, 5)))


@functools.cache
def start():
    params = jax.jit(unet().init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1), None, None)["params"]
    params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
    # weights past their start: with the zero-scale kernels of a fresh network most gradients vanish
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [x + 0.05 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return state.create({"net": jax.tree.unflatten(tree, leaves)}, OPTIMIZER, (0.9, 0.99), TIMES.init())


def batch(n):
    x0 = jax.random.normal(jax.random.key(100 + n), (BATCH, 8, 8, 1))
    return {"x0": np.asarray(x0), "label": np.full(BATCH, -1, np.int32), "index": np.arange(BATCH, dtype=np.int32)}


def compiled(layout, accumulate_steps):
    train_step = step.make_train_step(make_loss(unet()), TIMES, OPTIMIZER, BATCH, accumulate_steps)
    if layout is None:
        return jax.jit(train_step)
    return devices.parallelise(train_step, layout, start())


def run(layout, accumulate_steps, steps):
    train_step = compiled(layout, accumulate_steps)
    train_state = jax.tree.map(jnp.copy, start())  # it is donated
    train_state = train_state if layout is None else jax.device_put(train_state, devices.shardings(start(), layout))
    place = devices.put_local_rows if layout else (lambda rows: rows)
    seen, norms, gradient = [], [], None
    for n in range(steps):
        train_state, metrics = train_step(train_state, place(batch(n)), jax.random.key(7))
        seen.append(float(metrics["loss"]))
        norms.append(float(metrics["grad_norm"]))  # before it is clipped: a sum in the place of a mean shows here
        if n == 0:  # Adam's first moment is then a multiple of the gradient
            gradient = jax.device_get(optax.tree.get(train_state.opt_state, "mu"))
    return jax.device_get(train_state), seen, norms, gradient


def relative(got, want):
    """Distance of two trees, relative to the norm of the second."""
    difference = jax.tree.map(lambda a, b: np.asarray(a, np.float64) - np.asarray(b, np.float64), got, want)
    return float(optax.tree.norm(difference) / optax.tree.norm(want))


@pytest.fixture(scope="module")
def reference():
    return run(None, 1, UPDATES)


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "accumulate_steps"), [("shard_map", 1), ("fsdp", 4), ("pmap", 4)])
def test_layout_does_not_change_training(layout, accumulate_steps, reference, monkeypatch):
    """1 device against 4, accumulation 1 against 4, all modes, dropout on, 5 updates past the warm-up of 5."""
    monkeypatch.setattr(devices.sharding, "LEAST_SHARDED", 64)
    assert (devices.device_bytes(start(), layout) < 0.3 * devices.device_bytes(start())) == (layout == "fsdp")
    want_state, want_losses, want_norms, want_gradient = reference
    assert jax.device_count() == 4
    got_state, got_losses, got_norms, got_gradient = run(layout, accumulate_steps, UPDATES)
    assert relative(got_gradient, want_gradient) < 1e-10
    np.testing.assert_allclose(got_norms, want_norms, rtol=1e-9)
    np.testing.assert_allclose(got_losses, want_losses, rtol=1e-9)
    assert relative(got_state.params, want_state.params) < 1e-9
    for decay in ("0.9", "0.99"):
        assert relative(got_state.ema[decay], want_state.ema[decay]) < 1e-9
    np.testing.assert_array_equal(got_state.history["count"], want_state.history["count"])
    np.testing.assert_allclose(got_state.history["losses"], want_state.history["losses"], rtol=1e-6)
    assert want_state.history["count"].sum() == UPDATES * BATCH


def test_history_of_all_devices_is_in_the_order_of_the_batch():
    index = jnp.array([3, 0, 2, 1])
    np.testing.assert_array_equal(step.in_order(index, (index * 10.0,), None)[0], [0, 10, 20, 30])
    gathered = devices.map_over_devices(lambda i, x: step.in_order(i, x, devices.AXIS), replicated=0, reduced=True)
    np.testing.assert_array_equal(gathered(index, index * 10.0), [0, 10, 20, 30])


def test_dropout_is_on_in_the_comparison_above():
    """Without it the losses are others, so equal losses there mean equal masks."""
    keys = jax.random.split(jax.random.key(0), BATCH)
    rows = jax.tree.map(jnp.asarray, batch(0))
    with_dropout, without = (
        jax.jit(functools.partial(make_loss(unet()), dropout=on))(start().params, rows, jnp.full(BATCH, 0.5), keys)[0]
        for on in (True, False)
    )
    assert float(jnp.abs(with_dropout - without).max()) > 1e-3


# What follows needs no U-Net: one weight, and a loss that is its square times a factor in the batch.


class Weight(nn.Module):
    @nn.compact
    def __call__(self):
        return self.param("w", nn.initializers.constant(2.0), ())


def tiny_loss(params, rows, t, keys, dropout=True):
    per_example = rows["x0"][:, 0] * params["net"]["w"] ** 2
    return per_example, {"mse": per_example}


def tiny_run(factors, optimizer, decays=(0.9,), ramp=0.0):
    train_step = jax.jit(step.make_train_step(tiny_loss, time_sampling.uniform(10), optimizer, 2, 1, ramp))
    train_state = state.create({"net": {"w": jnp.array(2.0)}}, optimizer, decays)
    states, metrics = [train_state], []
    for factor in factors:
        rows = {"x0": jnp.full((2, 1), factor), "label": jnp.zeros(2, jnp.int32), "index": jnp.arange(2)}
        train_state, seen = train_step(train_state, rows, jax.random.key(0))
        states.append(train_state)
        metrics.append(seen)
    return states, metrics


def test_first_average_is_a_copy_and_then_decays():
    states, _ = tiny_run([1.0, 1.0, 1.0], optax.sgd(0.1), (0.9, 0.5))
    w = [float(s.params["net"]["w"]) for s in states]
    np.testing.assert_allclose(w, 2 * 0.8 ** np.arange(4), rtol=1e-6)
    for decay in (0.9, 0.5):
        expected = w[1]
        assert float(states[1].ema[str(decay)]["net"]["w"]) == pytest.approx(expected, rel=1e-6)
        for n in (2, 3):
            expected = decay * expected + (1 - decay) * w[n]
            assert float(states[n].ema[str(decay)]["net"]["w"]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_updates_that_are_not_finite_are_skipped_and_counted(bad):
    states, metrics = tiny_run([1.0, bad, bad, 1.0], optax.adam(0.1))
    for before, after in ((1, 2), (2, 3)):
        for field in ("params", "ema", "opt_state"):
            jax.tree.map(np.testing.assert_array_equal, getattr(states[before], field), getattr(states[after], field))
    assert [s.skipped.tolist() for s in states] == [[0, 0], [0, 0], [1, 1], [2, 2], [2, 0]]
    assert [int(s.step) for s in states] == [0, 1, 2, 3, 4]
    assert float(metrics[-1]["skipped"]) == 2
    assert float(states[4].params["net"]["w"]) < float(states[3].params["net"]["w"])


def test_a_skipped_first_update_still_makes_the_next_one_a_copy():
    states, _ = tiny_run([np.nan, 1.0], optax.sgd(0.1))
    assert float(states[2].ema["0.9"]["net"]["w"]) == float(states[2].params["net"]["w"]) == pytest.approx(1.6)


def test_clipping_is_of_the_averaged_gradient():
    states, metrics = tiny_run([10.0], optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0)))
    assert float(metrics[0]["grad_norm"]) == pytest.approx(40)
    assert float(states[1].params["net"]["w"]) == pytest.approx(1.0)


def test_evaluation_counts_every_example_once_and_padding_never():
    evaluate = step.make_eval_step(lambda p, rows, t, keys, dropout: (10 * t, {}), 10, 10)
    rows = {"x0": jnp.zeros((10, 1)), "index": jnp.arange(10), "mask": jnp.array([1.0] * 8 + [0.0] * 2)}
    sums = evaluate(None, jax.random.key(0), rows)
    assert float(sums["count"].sum()) == 8
    # with 10 examples on a chain of 10 steps every interval of t gets one, and there 10 t is its number
    np.testing.assert_allclose(sums["loss"], sums["count"] * np.arange(1, 11), rtol=1e-5)
