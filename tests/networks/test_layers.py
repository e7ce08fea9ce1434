import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.networks import layers


def keys_of(*examples):
    return jnp.stack([jax.random.key(i) for i in examples])


def drawn(layer, *inputs):
    """Parameters of the layer with no value near zero, as nearly all of a residual branch would be at the start."""
    random = np.random.RandomState(0)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), *inputs)["params"]
    return jax.tree.map(lambda a: (random.normal(size=a.shape) / np.sqrt(a.shape[0])).astype(np.float32), shapes)


def run(layer, params, *inputs):
    return np.asarray(jax.jit(layer.apply)({"params": params}, *inputs))


def normalised(x, groups):
    grouped = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    mean, var = grouped.mean(axis=(1, 3), keepdims=True), grouped.var(axis=(1, 3), keepdims=True)
    return ((grouped - mean) / np.sqrt(var + 1e-6)).reshape(x.shape)


def test_time_embedding_is_sines_then_cosines_of_the_published_frequencies():
    time = np.array([0.0, 0.5, 17.0, 999.0])
    frequencies = np.exp(-np.arange(64) * np.log(10000) / 63)
    expected = np.concatenate([np.sin(time[:, None] * frequencies), np.cos(time[:, None] * frequencies)], axis=1)
    got = layers.time_embedding(jnp.asarray(time, jnp.float32), 128)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, atol=5e-4)  # float32 knows a phase of 999 to 6e-5
    np.testing.assert_array_equal(got[0], np.repeat([0.0, 1.0], 64))
    np.testing.assert_allclose(frequencies[[0, -1]], [1, 1e-4])
    with jax.enable_x64(True):
        got = layers.time_embedding(jnp.asarray(time), 128)
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize("dtype", ["int32", "bfloat16"])
def test_time_embedding_is_never_coarser_than_float32(dtype):
    got = layers.time_embedding(jnp.array([3, 17], dtype), 32)
    np.testing.assert_array_equal(got, layers.time_embedding(jnp.array([3.0, 17.0]), 32))


def test_dropout_draws_each_mask_from_its_own_key():
    x = jnp.ones((4, 8, 8, 16))
    layer = layers.Dropout(0.3)
    together = jax.jit(layer.apply)({}, x, keys_of(0, 1, 2, 3))
    np.testing.assert_array_equal(together[:2], jax.jit(layer.apply)({}, x[:2], keys_of(0, 1)))
    np.testing.assert_array_equal(together[2:], jax.jit(layer.apply)({}, x[2:], keys_of(2, 3)))
    np.testing.assert_array_equal(together[::-1], jax.jit(layer.apply)({}, x, keys_of(3, 2, 1, 0)))
    assert not np.array_equal(together[0], together[1])


def test_dropout_masks_do_not_depend_on_precision():
    key, rate = keys_of(5), 0.3
    single = layers.Dropout(rate).apply({}, jnp.ones((1, 1000)), key)
    half = layers.Dropout(rate).apply({}, jnp.ones((1, 1000), jnp.bfloat16), key)
    with jax.enable_x64(True):
        double = layers.Dropout(rate).apply({}, jnp.ones((1, 1000), jnp.float64), key)
        double = np.asarray(double)
    assert (single.dtype, half.dtype, double.dtype) == (jnp.float32, jnp.bfloat16, np.float64)
    np.testing.assert_array_equal(single > 0, half > 0)
    np.testing.assert_array_equal(single > 0, double > 0)


def test_dropout_keeps_the_mean():
    x = jnp.ones((8, 100_000))
    y = layers.Dropout(0.3).apply({}, x, keys_of(*range(8)))
    values = np.unique(y)
    np.testing.assert_allclose(values, [0, 1 / 0.7], rtol=1e-6)
    np.testing.assert_allclose(np.mean(y > 0, axis=1), 0.7, atol=5 * (0.3 * 0.7 / 100_000) ** 0.5)  # 5 standard errors
    np.testing.assert_allclose(np.mean(y), 1, atol=0.004)


def test_dropout_layers_draw_different_masks():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x, keys):
            return layers.Dropout(0.5, name="a")(x, keys), layers.Dropout(0.5, name="b")(x, keys)

    a, b = Two().apply({}, jnp.ones((1, 10_000)), keys_of(0))
    np.testing.assert_allclose(np.mean((a > 0) == (b > 0)), 0.5, atol=0.025)  # 5 standard errors


def test_dropout_without_keys_or_rate_is_the_identity():
    x = jnp.arange(6.0).reshape(2, 3)
    assert layers.Dropout(0.5).apply({}, x, None) is x
    assert layers.Dropout(0.0).apply({}, x, keys_of(0, 1)) is x


@pytest.mark.parametrize(("channels", "groups"), [(384, 32), (128, 32), (64, 16), (36, 9), (6, 1)])
def test_group_norm_has_32_groups_or_as_many_as_hold_4_channels(channels, groups):
    x = np.random.RandomState(0).normal(3, 2, size=(2, 3, 5, channels))
    layer = layers.group_norm(channels, jnp.float32, "norm")
    got = layer.apply(
        {"params": {"scale": jnp.ones(channels), "bias": jnp.zeros(channels)}}, jnp.asarray(x, jnp.float32)
    )
    np.testing.assert_allclose(got, normalised(x, groups), atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-5)])
def test_group_norm_and_its_derivatives_are_those_of_flax(dtype, tolerance):
    random, dtype = np.random.RandomState(0), jnp.dtype(dtype)
    with jax.enable_x64(dtype == jnp.float64):
        x, dx, weight = (jnp.asarray(random.normal(0.5, size=(3, 4, 6, 24)), dtype) for _ in range(3))
        params = {name: jnp.asarray(random.normal(size=24), dtype) for name in ("scale", "bias")}
        tangent = {name: jnp.asarray(random.normal(size=24), dtype) for name in ("scale", "bias")}

        def everything(layer):
            def f(params, x):
                return jnp.sin(layer.apply({"params": params}, x))

            value, forward = jax.jvp(f, (params, x), (tangent, dx))
            backward = jax.vjp(f, params, x)[1](weight)
            return value, forward, backward

        ours = jax.jit(lambda: everything(layers.group_norm(24, dtype, "norm")))()
        theirs = jax.jit(
            lambda: everything(nn.GroupNorm(6, epsilon=layers.NORM_EPSILON, use_fast_variance=False, dtype=dtype))
        )()
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, atol=tolerance * float(jnp.abs(b).max()), rtol=0)


def test_groups_must_divide_the_channels():
    with pytest.raises(ValueError, match="groups"):
        layers.group_norm(24, jnp.float32, "norm", groups=5).init(jax.random.key(0), jnp.ones((1, 2, 2, 24)))


def test_group_norm_under_bfloat16_has_float32_statistics():
    x = jnp.asarray(100 + np.random.RandomState(0).normal(size=(2, 4, 4, 8)), jnp.bfloat16)
    params = {"scale": jnp.ones(8), "bias": jnp.zeros(8)}
    got = layers.group_norm(8, jnp.bfloat16, "norm").apply({"params": params}, x)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        got.astype(np.float32), normalised(np.asarray(x, np.float64), 2), atol=2**-5
    )  # 2^-7: half a unit


def test_group_norm_survives_a_large_mean():
    x = 1000 + jnp.asarray(np.random.RandomState(0).normal(size=(1, 8, 8, 32)), jnp.float32)
    got = layers.group_norm(32, jnp.float32, "norm").apply(
        {"params": {"scale": jnp.ones(32), "bias": jnp.zeros(32)}}, x
    )
    np.testing.assert_allclose(np.std(got), 1, atol=1e-4)


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_is_softmax_of_scaled_products_over_all_pixels(heads):
    x = np.random.RandomState(0).normal(size=(2, 3, 4, 8)).astype(np.float32)
    layer = layers.SelfAttention(heads, jnp.float32)
    params = drawn(layer, x)
    h = normalised(x, 2).reshape(2, 12, 8)
    h = h * params["norm"]["scale"] + params["norm"]["bias"]
    q, k, v = (h @ params[n]["kernel"] + params[n]["bias"] for n in "qkv")
    out = []
    for part in np.split(np.arange(8), heads):
        logits = np.einsum("bqc,bkc->bqk", q[..., part], k[..., part]) / np.sqrt(len(part))
        weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        out.append(weights @ v[..., part])
    h = np.concatenate(out, -1) @ params["proj_out"]["kernel"] + params["proj_out"]["bias"]
    np.testing.assert_allclose(run(layer, params, x), x + h.reshape(x.shape), atol=1e-5)


def test_residual_block_follows_its_formula():
    random = np.random.RandomState(0)
    x, temb = random.normal(size=(2, 4, 6, 8)).astype(np.float32), random.normal(size=(2, 5)).astype(np.float32)
    block = layers.ResidualBlock(16, 0.0, jnp.float32)
    params = drawn(block, x, temb, None)

    def norm(name, h):
        return normalised(h, h.shape[-1] // 4) * params[name]["scale"] + params[name]["bias"]

    def conv3x3(name, h):
        padded = np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        return np.einsum("bhwcij,ijco->bhwo", windows, params[name]["kernel"]) + params[name]["bias"]

    def linear(name, h):
        return h @ params[name]["kernel"] + params[name]["bias"]

    def silu(h):
        return h / (1 + np.exp(-h))

    h = conv3x3("conv1", silu(norm("norm1", x))) + linear("temb_proj", silu(temb))[:, None, None]
    expected = linear("nin_shortcut", x) + conv3x3("conv2", silu(norm("norm2", h)))
    np.testing.assert_allclose(run(block, params, x, temb, None), expected, atol=2e-5)


def test_residual_branches_start_near_zero():
    x, temb = np.random.RandomState(0).normal(size=(2, 4, 4, 32)).astype(np.float32), np.ones((2, 8), np.float32)
    for layer, inputs in (
        (layers.ResidualBlock(32, 0.0, jnp.float32), (x, temb, None)),
        (layers.SelfAttention(1, jnp.float32), (x,)),
    ):
        y, _ = jax.jit(layer.init_with_output)(jax.random.key(0), *inputs)
        np.testing.assert_allclose(y, x, atol=1e-3)


@pytest.mark.parametrize(("scale", "init"), [(1, layers.GLOROT), (1e-10, layers.NEAR_ZERO)])
def test_kernels_start_glorot_uniform(scale, init):
    kernel = init(jax.random.key(0), (3, 3, 32, 64), jnp.float32)
    bound = np.sqrt(6 * scale / (9 * 32 + 9 * 64))
    assert kernel.shape == (3, 3, 32, 64)
    assert 0.99 * bound < np.max(np.abs(kernel)) <= bound
    np.testing.assert_allclose(np.std(kernel), bound / np.sqrt(3), rtol=0.02)
    np.testing.assert_allclose(np.mean(kernel), 0, atol=0.02 * bound)


def test_downsample_pads_after_the_last_row_and_column_only():
    x = jnp.arange(24.0).reshape(1, 4, 6, 1)
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    layer = layers.Downsample(jnp.float32)
    for i, j in np.ndindex(3, 3):
        kernel[:] = 0
        kernel[i, j] = 1
        got = layer.apply({"params": {"conv": {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(1)}}}, x)
        padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
        np.testing.assert_array_equal(got, padded[:, i : i + 4 : 2, j : j + 6 : 2])


def test_upsample_repeats_pixels():
    x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    kernel = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1)
    got = layers.Upsample(jnp.float32).apply({"params": {"conv": {"kernel": kernel, "bias": jnp.zeros(1)}}}, x)
    np.testing.assert_array_equal(got, np.kron(x, np.ones((1, 2, 2, 1))))


def test_labels_choose_rows_and_no_label_is_the_last():
    layer = layers.Conditioning(8, 16, 3, jnp.float32)
    time = jnp.array([1.0, 1.0, 1.0, 1.0])
    params = drawn(layer, time, None)
    rows = params["label"]["embedding"]
    assert rows.shape == (4, 16)
    without = run(layers.Conditioning(8, 16, 0, jnp.float32), params, time, jnp.array([0, 1, 2, -1]))
    got = run(layer, params, time, jnp.array([0, 1, 2, -1]))
    np.testing.assert_allclose(got - without, rows, atol=1e-6)
    np.testing.assert_allclose(run(layer, params, time, None) - without, np.tile(rows[3], (4, 1)), atol=1e-6)
    assert np.all(np.isnan(run(layer, params, time, jnp.array([3, 3, 3, 3]))))
