"""States are restored on any number of devices; interrupted, damaged and missing saves are errors with their names."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from diffusion_jax import files
from diffusion_jax.training import checkpoints, checksums, state

CONFIG = {
    "seed": 0,
    "learning_rate": 2e-4,
    "network": {"multipliers": (1, 2), "attention": (), "nested": ((1, 2.0), "x"), "none": None, "empty": {}},
}


class Unreachable(Exception):
    """An error as storage raises it."""


class NotFoundError(Exception):
    """The name that TensorFlow has for a directory that does not exist."""


@pytest.mark.parametrize(("raised", "error"), [(Unreachable, OSError), (NotFoundError, FileNotFoundError)])
def test_storage_out_of_reach_is_not_a_run_without_checkpoints(raised, error, monkeypatch):
    def fail(*_):
        raise raised("no such host")

    kind = type(files.place_of("gs://bucket/run"))
    monkeypatch.setattr(kind, "is_dir", lambda _: False)
    monkeypatch.setattr(kind, "stat", fail)
    with pytest.raises(error, match="gs://bucket/run") as caught:
        checkpoints.find_step("gs://bucket/run")
    assert caught.type is error


def make_state(value=1.0, rows=8):
    params = {
        "net": {"w": jnp.full((rows, 3), value) + jnp.arange(3.0), "b": jnp.arange(5, dtype=jnp.bfloat16)},
        "schedule": {},
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    full = state.create(params, optimizer, (0.9999, 0.99))
    ema = {name: jax.tree.map(lambda x, d=float(name): x * d, average) for name, average in full.ema.items()}
    return full.replace(step=jnp.int32(value), ema=ema, history={"losses": jnp.ones((4, 2)), "key": jax.random.key(7)})


def save_all(workdir, losses, keep=2, keep_every=0):
    """Save steps 1, 2, … with these held-out losses; returns the steps kept."""
    manager = checkpoints.open_manager(workdir, keep, keep_every)
    for n, loss in enumerate(losses, start=1):
        checkpoints.save(manager, n, make_state(n), CONFIG, loss)
    manager.close()
    return checkpoints.steps(workdir)


def arrays(tree):
    """Leaves as plain NumPy, so that typed keys compare too."""
    typed = [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in jax.tree.leaves(tree)
    ]
    return [np.asarray(x) for x in typed]


def assert_same(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for x, y in zip(arrays(tree), arrays(other), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def mesh(number):
    return jax.make_mesh((number,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices()[:number])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir with steps 1 to 3, for tests that only read."""
    workdir = tmp_path_factory.mktemp("run")
    assert save_all(workdir, [3.0, 1.0, 2.0], keep=3) == [1, 2, 3]
    return workdir


def test_state_comes_back_whole(run):
    restored = checkpoints.restore(run, make_state(0.0))
    assert_same(restored, make_state(3.0))
    assert isinstance(restored, state.TrainState)
    assert restored.history["key"].dtype == jax.random.key(0).dtype


def test_state_may_be_described_by_shapes(run):
    single = SingleDeviceSharding(jax.devices()[2])
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=single), make_state(0.0))
    restored = checkpoints.restore(run, shapes, 1)
    assert_same(restored, make_state(1.0))
    assert all(x.devices() == {jax.devices()[2]} for x in jax.tree.leaves(restored))


@pytest.mark.parametrize("before, after", [(4, 1), (1, 4), (4, 2)])
@pytest.mark.parametrize("spec", [P(), P("x")], ids=["replicated", "sharded"])
def test_other_number_of_devices(tmp_path, before, after, spec):
    def placed(number, value):
        tree = {"w": jnp.arange(24.0).reshape(8, 3) * value, "key": jax.random.key(3)}
        specs = {"w": spec, "key": P()}
        return {name: jax.device_put(x, NamedSharding(mesh(number), specs[name])) for name, x in tree.items()}

    manager = checkpoints.open_manager(tmp_path)
    checkpoints.save(manager, 1, placed(before, 2.0), CONFIG)
    restored = checkpoints.restore(manager, placed(after, 0.0))
    manager.close()
    assert_same(restored, placed(after, 2.0))
    assert restored["w"].sharding == placed(after, 0.0)["w"].sharding


@pytest.mark.parametrize("devices", [1, 4])
def test_donated_after_save(tmp_path, devices):
    """The save runs on while the buffers that it was given are overwritten, step after step."""
    sharding = NamedSharding(mesh(devices), P())
    big = {"a": jax.device_put(jnp.zeros((1024, 1024)), sharding), "b": jax.device_put(jnp.zeros(3), sharding)}
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    manager = checkpoints.open_manager(tmp_path, keep=10)
    for n in range(1, 5):
        checkpoints.save(manager, n, big, CONFIG)
        for _ in range(10):
            big = step(big)
    manager.close()
    for n in range(1, 5):
        restored = checkpoints.restore(tmp_path, big, n)
        for x in jax.tree.leaves(restored):
            np.testing.assert_array_equal(x, 10.0 * (n - 1))


def test_config_comes_back_with_tuples(run):
    config = checkpoints.read_config(run)
    assert config == CONFIG
    typed = ml_collections.ConfigDict(config)
    typed.network.multipliers = (1, 2, 4)  # a list there would refuse a tuple
    with pytest.raises(TypeError):
        typed.seed = "0"


@pytest.mark.parametrize("ema, factor", [("none", 1.0), ("0.9999", 0.9999), ("0.99", 0.99)])
@pytest.mark.parametrize("step, value", [(1, 1.0), ("newest", 3.0), ("best", 2.0)])
def test_weights_alone(run, ema, factor, step, value):
    weights = checkpoints.restore_weights(run, step, ema)
    full = make_state(value)
    assert_same(weights, full.params if ema == "none" else full.ema[ema])
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(weights))
    np.testing.assert_allclose(weights["net"]["w"][0], factor * (value + np.arange(3)), rtol=1e-6)


def test_weights_of_unknown_average(run):
    with pytest.raises(ValueError, match=r"ema.*0\.99, 0\.9999"):
        checkpoints.restore_weights(run, ema="0.9")


@pytest.mark.parametrize(
    "losses, keep, keep_every, kept, best",
    [
        ([3.0, 1.0, 2.0, 4.0, 5.0], 2, 0, [2, 4, 5], 2),
        ([3.0, 1.0, 2.0, 4.0, 5.0], 1, 3, [2, 3, 5], 2),
        ([1.0, 1.0, None, None, None], 1, 0, [2, 5], 2),
        ([2.0, float("nan"), -1.0, float("-inf"), None], 1, 0, [3, 5], 3),
        ([None] * 5, 2, 2, [2, 4, 5], None),
    ],
)
def test_the_newest_and_best_checkpoints_are_kept(tmp_path, losses, keep, keep_every, kept, best):
    assert save_all(tmp_path, losses, keep, keep_every) == kept
    assert checkpoints.find_step(tmp_path) == 5
    assert checkpoints.find_step(tmp_path, "3" if 3 in kept else "5") in kept
    if best is None:
        with pytest.raises(ValueError, match="best"):
            checkpoints.find_step(tmp_path, "best")
    else:
        assert checkpoints.find_step(tmp_path, "best") == best


def test_best_is_kept_across_a_restart(tmp_path):
    save_all(tmp_path, [3.0, 1.0, 2.0], keep=1)
    manager = checkpoints.open_manager(tmp_path, keep=1)
    assert manager.latest_step() == 3
    for n in (3, 4, 5):  # 3 is there already and is left alone
        checkpoints.save(manager, n, make_state(10.0 * n), CONFIG, 1.5)
    manager.close()
    assert checkpoints.steps(tmp_path) == [2, 5]
    assert checkpoints.find_step(tmp_path, "best") == 2


@pytest.mark.parametrize("read", [checkpoints.read_config, checkpoints.find_step, checkpoints.restore_weights])
@pytest.mark.parametrize("made", [False, True])
def test_no_checkpoint(tmp_path, read, made):
    workdir = tmp_path / "run"
    if made:
        checkpoints.open_manager(workdir).close()
    with pytest.raises(FileNotFoundError, match=re.escape(str(workdir))):
        read(workdir)
    assert checkpoints.steps(workdir) == []
    assert workdir.exists() == made


@pytest.mark.parametrize("step", [7, "7", "newset", "-1"])
def test_step_that_is_not_there(run, step):
    with pytest.raises(ValueError, match="newest"):
        checkpoints.find_step(run, step)


def test_state_that_does_not_fit(run):
    with pytest.raises(
        ValueError,
        match=r"ema/0\.99/net/w",
    ):
        checkpoints.restore(run, make_state(0.0, rows=9))
    with pytest.raises(ValueError, match=r"ema/0\.99/net/b"):
        checkpoints.restore(run, make_state(0.0).replace(ema={}))
    with pytest.raises(ValueError, match="history/key"):
        checkpoints.restore(run, make_state(0.0).replace(history=None))


def test_array_that_was_none(tmp_path):
    manager = checkpoints.open_manager(tmp_path)
    checkpoints.save(manager, 1, make_state().replace(history=None), CONFIG)
    assert checkpoints.restore(manager, make_state().replace(history=None)).history is None
    with pytest.raises(ValueError, match="history"):
        checkpoints.restore(manager, make_state().replace(history=jnp.ones(2)))
    manager.close()


def everything(directory):
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in pathlib.Path(directory).rglob("*")}


def test_reading_writes_nothing(run):
    before = everything(run)
    checkpoints.steps(run)
    checkpoints.read_config(run, "best")
    checkpoints.restore(run, make_state(0.0))
    checkpoints.restore_weights(run, ema="0.99")
    assert everything(run) == before


def test_relative_workdir(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    assert checkpoints.steps(run.name) == [1, 2, 3]
    assert_same(checkpoints.restore(run.name, make_state(0.0), 2), make_state(2.0))


def test_one_flipped_bit_is_noticed(tmp_path):
    """120 times, in every file but Orbax's notes at the top, which nothing reads: what reads it says so.

    And all is well once the file is as it was.
    """
    save_all(tmp_path, [2.0, 1.0])
    newest = tmp_path / "checkpoints" / "2"
    inner = sorted(p for p in newest.glob("*/**/*") if p.is_file() and p.stat().st_size)
    files = [newest / checksums.MANIFEST, *inner]
    assert len(files) > 8
    rng = np.random.default_rng(0)
    for n in range(120):
        path = files[n % len(files)]
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        told = []
        for reads, call in (
            ("config", lambda: checkpoints.read_config(tmp_path)),
            ("metrics", lambda: checkpoints.find_step(tmp_path, "best")),
            ("state", lambda: checkpoints.restore_weights(tmp_path)),
        ):
            if not told:
                try:
                    call()
                except ValueError as error:
                    told.append((reads, str(error)))
        ((reads, said),) = told
        assert re.search(rf"checkpoints/2: .*--step=1\b.*{newest}", said), said
        assert path.name == checksums.MANIFEST or path.relative_to(newest).parts[0] == reads
        path.write_bytes(content)
    assert_same(checkpoints.restore(tmp_path, make_state(0.0)), make_state(2.0))


@pytest.mark.parametrize("harm", [pathlib.Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_missing_or_short_file(tmp_path, harm):
    save_all(tmp_path, [2.0, 1.0])
    harm(max((tmp_path / "checkpoints" / "2" / "state" / "d").iterdir()))
    with pytest.raises(ValueError, match=r"checkpoints/2.*state/d/"):
        checkpoints.restore_weights(tmp_path)
    assert_same(checkpoints.restore(tmp_path, make_state(0.0), 1), make_state(1.0))


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"state/d": "0"}'])
def test_damaged_manifest(tmp_path, content):
    save_all(tmp_path, [2.0, 1.0])
    (tmp_path / "checkpoints" / "2" / checksums.MANIFEST).write_text(content)
    with pytest.raises(ValueError, match="checkpoints/2"):
        checkpoints.restore(tmp_path, make_state(0.0))


def test_a_manifest_without_sizes_is_good_enough(tmp_path):
    save_all(tmp_path, [1.0])
    path = tmp_path / "checkpoints" / "1" / checksums.MANIFEST
    noted = {name: value.split()[0] for name, value in json.loads(path.read_text()).items()}
    path.write_text(json.dumps(noted))
    assert_same(checkpoints.restore(tmp_path, make_state(0.0)), make_state(1.0))


def test_without_manifest_it_is_read_with_a_warning(tmp_path, caplog):
    save_all(tmp_path, [1.0])
    (tmp_path / "checkpoints" / "1" / checksums.MANIFEST).unlink()
    assert_same(checkpoints.restore(tmp_path, make_state(0.0)), make_state(1.0))
    assert "reading it unchecked" in caplog.text


def test_killed_while_saving(tmp_path):
    """SIGKILL when all is written but not in its place yet: the earlier checkpoint is the newest, training goes on."""
    program = """
        import os, signal, sys
        import jax.numpy as jnp
        from diffusion_jax.training import checkpoints, checksums
        manager = checkpoints.open_manager(sys.argv[1])
        checkpoints.save(manager, 1, {"x": jnp.ones(3)}, {"a": (1,)})
        manager.wait_until_finished()
        checksums.seal = lambda directory: os.kill(os.getpid(), signal.SIGKILL)
        checkpoints.save(manager, 2, {"x": 2 * jnp.ones(3)}, {"a": (1,)})
        manager.wait_until_finished()
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    root = pathlib.Path(checkpoints.__file__).parents[2]
    killed = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2  # the second one under a temporary name
    assert checkpoints.steps(tmp_path) == [1]
    like = {"x": jnp.zeros(3)}
    assert_same(checkpoints.restore(tmp_path, like), {"x": jnp.ones(3)})

    manager = checkpoints.open_manager(tmp_path)
    checkpoints.save(manager, 2, {"x": 2 * jnp.ones(3)}, {"a": (1,)})
    manager.close()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["1", "2"]
    assert_same(checkpoints.restore(tmp_path, like), {"x": 2 * jnp.ones(3)})


def test_workdir_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    for workdir in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match="--workdir"):
            checkpoints.open_manager(workdir)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    workdir = pathlib.Path("/proc/run") if os.access(closed, os.W_OK) else closed  # root may write anywhere but there
    with pytest.raises(PermissionError, match="--workdir"):
        checkpoints.open_manager(workdir)


@pytest.mark.parametrize("keep, keep_every", [(0, 0), (1, -1)])
def test_bad_numbers(tmp_path, keep, keep_every):
    with pytest.raises(ValueError, match=r"checkpoint\.keep"):
        checkpoints.open_manager(tmp_path, keep, keep_every)


def test_config_that_json_cannot_hold(tmp_path):
    manager = checkpoints.open_manager(tmp_path)
    with pytest.raises(TypeError):
        checkpoints.save(manager, 1, make_state(), {"a": object()})
    manager.close()
