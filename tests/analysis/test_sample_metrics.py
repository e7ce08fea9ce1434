"""Sample metrics of a run: stored samples, intervals, provenance, and references that must fit."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from diffusion_jax import main
from diffusion_jax.analysis import sample_metrics
from diffusion_jax.data.embedded import digits
from diffusion_jax.data.source import NoHeldout, empty_split
from diffusion_jax.experiment import quality, sources
from diffusion_jax.metrics import frechet, manifold, parzen, reference, registry
from diffusion_jax.metrics.features import extract
from diffusion_jax.runs import stored_samples, trained

ROOT = pathlib.Path(__file__).parents[2]
EVALUATE = ["--features=digits", "--bootstrap=10", "--allow=few,sizes"]
BOTH = ("few", "sizes")


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A finished tiny run of digits."""
    path = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        flags = [
            "--config.report.tensorboard=False",
            "--config.report.samples_every=0",
            "--config.eval.svm=False",
            "--config.sampler.tile=8",
        ]
        assert main.run(["main", "train", "--config=configs/digits.py:tiny", f"--workdir={path}", *flags]) == 0
    return path


@pytest.fixture(scope="module")
def stats(tmp_path_factory):
    """Statistics of the training digits."""
    path = tmp_path_factory.mktemp("stats") / "train.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        argv = ["main", "stats", "--config=configs/digits.py", "--features=digits", f"--out={path}"]
        assert main.run(argv) == 0
    return path


@pytest.fixture(scope="module")
def loaded(workdir):
    return trained.load(str(workdir))


def evaluate(capsys, workdir, *flags):
    """Return the values, and the records of metrics.json."""
    code = main.run(["main", "evaluate", f"--workdir={workdir}", *map(str, flags)])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    records = json.loads((workdir / "evaluation" / "2-0.998" / "metrics.json").read_text())
    return json.loads(captured.out.splitlines()[-1]), records


def shards(workdir):
    return sorted((workdir / "evaluation" / "2-0.998").glob("samples-*/[0-9]*.npz"))


@pytest.mark.parametrize("features", ["inception", "digits", "pixels", "dino"])
@pytest.mark.parametrize("statistic", ["fd", "kd", "is_1split", "precision", "memorisation"])
@pytest.mark.parametrize("count", [256, 50_000])
def test_figures_of_heldout_data_have_the_names_of_those_of_samples(features, statistic, count):
    name = registry.full_name(statistic, features, count)
    assert registry.is_full_name(name)
    for prefix in ("heldout", "reconstruction"):
        assert registry.full_name(f"{prefix}_{statistic}", features, count) == f"{prefix}_{name}"
        assert registry.is_full_name(f"{prefix}_{name}")
    assert not registry.is_full_name(f"{name}_low") and not registry.is_full_name(f"{name}_std")


def test_statistics_are_of_every_training_example_with_provenance(stats):
    found = reference.read(stats)
    said = found.provenance
    assert (said["data"], said["split"], said["count"], said["levels"]) == ("digits/train", "train", 1500, 17)
    assert said["features"] == "digits" and len(said["weights"]) == 16 and said["versions"]["jax"]
    assert sorted(found.places) == list(range(1500)) and found.features.shape == (1500, 64)
    mean, cov = frechet.statistics(found.features)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(found.cov, cov, rtol=1e-6, atol=1e-9)


def test_metrics_have_names_intervals_and_provenance(workdir, stats, capsys):
    flags = [*EVALUATE, f"--stats={stats}", "--metrics=fid,kid,is,pr,nn", "--num_samples=300", "--heldout"]
    found, records = evaluate(capsys, workdir, *flags)
    names = ("fd", "kd", "is_1split", "precision", "recall", "density", "coverage", "memorisation")
    for name in names:
        low, value, high = (found[f"{name}_digits_300{end}"] for end in ("_low", "", "_high"))
        assert low <= value <= high and (low < high or name == "recall")
    assert found["heldout_fd_digits_297"] < found["fd_digits_297"] / 10  # real digits against an untrained network
    assert found["heldout_precision_digits_297"] > 0.7 and found["fd_digits_297_std"] > 0
    assert any("sizes" in warning for warning in found["marked"])
    (record,) = records.values()
    assert record["seeds"] == [0, 299] and record["weights"]["ema"] == "0.998" and record["network_calls"] == 4
    assert record["reference"]["count"] == 1500 and "17 levels" in record["quantisation"]
    assert record["sampler"]["name"] == "ancestral" and record["bootstrap"]["replicates"] == 10
    with Image.open(workdir / "evaluation" / "2-0.998" / "neighbours_digits.png") as picture:
        assert picture.size[0] > 100

    ref, stored = reference.read(stats), _samples(workdir)
    samples = np.stack([np.frombuffer(stored[seed], np.uint8).reshape(8, 8, 1) for seed in range(300)])
    network = quality.feature_network("digits", (8, 8, 1), 17)
    features = extract(network, 17, [samples], 300, "samples").features
    expected = frechet.frechet_distance(ref.mean, ref.cov, *frechet.statistics(features))
    assert found["fd_digits_300"] == pytest.approx(expected, rel=1e-9)
    assert found["recall_digits_300"] == manifold.recall(ref.features, features)


def test_as_many_samples_as_heldout_examples_keep_their_interval(loaded, stats):
    found = evaluated(loaded, ["fid"], stats=stats, number=297, heldout=True)
    assert found["fd_digits_297_low"] < found["fd_digits_297_high"] and "fd_digits_297_std" not in found
    assert found["heldout_fd_digits_297"] > 0


def evaluated(run, metrics, features="digits", stats="", allowed=BOTH, replicates=10, **options):
    """Return the values, without the held-out loss that the command adds."""
    options = sample_metrics.Options(allowed=allowed, replicates=replicates, **options)
    return sample_metrics.prepare_metrics(run, metrics, features, "", str(stats), options)()


def test_metrics_are_the_same_from_stored_samples_after_a_kill_and_on_one_device(loaded, stats, tmp_path):
    """Here with four devices; some samples are deleted and drawn again with others; one device draws the same."""
    copy = tmp_path / "copy"
    shutil.copytree(loaded.workdir, copy)
    for path in shards(copy):
        path.unlink()
    run = loaded._replace(workdir=str(copy))
    first = evaluated(run, ["fid", "pr"], stats=stats, number=40, seed=7)
    files = {path.name: path.read_bytes() for path in shards(copy)}
    whole = _samples(copy)
    assert len(files) == 2 and sorted(whole) == list(range(7, 47))
    assert evaluated(run, ["fid", "pr"], stats=stats, number=40, seed=7) == first
    assert {path.name: path.read_bytes() for path in shards(copy)} == files

    shards(copy)[1].unlink()
    assert evaluated(run, ["fid", "pr"], stats=stats, number=40, seed=7) == first
    assert _samples(copy) == whole

    for path in shards(copy):
        path.unlink()
    env = os.environ | {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=4", "device_count=1")}
    code = (
        "import json, sys; from diffusion_jax.analysis import sample_metrics; from diffusion_jax.runs import trained\n"
        "options = sample_metrics.Options(40, 7, ('few', 'sizes'), 10)\n"
        "run = trained.load(sys.argv[1])\n"
        "print(json.dumps(sample_metrics.prepare_metrics(run, ['fid', 'pr'], 'digits', '', sys.argv[2], options)()))"
    )
    argv = [sys.executable, "-c", code, str(copy), str(stats)]
    done = subprocess.run(argv, check=True, env=env, cwd=ROOT, capture_output=True, text=True)
    alone = json.loads(done.stdout.splitlines()[-1])
    for name, value in first.items():
        assert alone[name] == (value if name == "marked" else pytest.approx(value, rel=1e-6))
    assert _samples(copy) == whole


def _samples(workdir):
    """Return {seed: bytes of the sample} of all stored samples."""
    found = {}
    for path in shards(workdir):
        with np.load(path) as file:
            found |= {int(seed): x.tobytes() for seed, x in zip(file["seeds"], file["samples"], strict=True)}
    return found


def test_stored_samples_equal_drawn_ones_in_the_order_of_their_seeds(loaded):
    seeds = np.array([9, 3, 12])
    stored_samples.samples(loaded, seeds[:1])
    expected = dict(zip(*trained.draw(loaded, 10, 3), strict=True))
    np.testing.assert_array_equal(stored_samples.samples(loaded, seeds), [expected[seed] for seed in seeds])


def test_parzen_windows_are_around_the_stored_samples(loaded):
    found = evaluated(loaded, ["parzen"], number=24, seed=100)
    train, heldout = (sources.source(loaded.config, split) for split in ("train", "heldout"))
    drawn = stored_samples.samples(loaded, trained.seeds_from(100, 24))
    arrays = drawn, train.read(np.arange(500, 1500))[0], heldout.read(np.arange(297))[0]
    expected = parzen(*(x.reshape(len(x), 64) / 16 for x in arrays))
    bits = [found[name] for name in ("parzen_bits", "parzen_bits_stderr")]
    np.testing.assert_allclose(bits, np.array(expected) / np.log(2), rtol=1e-12)
    assert found["parzen_bits_samples"] == 24


def test_all_metrics_share_the_stored_samples(loaded, stats, monkeypatch):
    found = sample_metrics.svm_metrics(loaded, 24, seed=100)
    monkeypatch.setattr(stored_samples.drawing, "samples", lambda *args, **options: pytest.fail)
    assert sample_metrics.svm_metrics(loaded, 24, seed=100) == found
    assert evaluated(loaded, ["fid"], stats=stats, number=24, seed=100)["fd_digits_24"] > 0


def test_a_run_without_heldout_data_is_evaluated_in_the_rest(loaded, stats, monkeypatch, caplog):
    whole, open_source = sample_metrics.svm_metrics(loaded, 24, seed=100), sources.source

    def only_train(config, split):
        return empty_split("x", split, "0") if split == "heldout" else open_source(config, split)

    monkeypatch.setattr(sources, "source", only_train)
    rest = sample_metrics.svm_metrics(loaded, 24, seed=100)
    assert rest == {name: whole[name] for name in ("num_samples", "network_calls", "frechet_pixels")}
    assert trained.heldout_loss(loaded) == {} and "held-out" in caplog.text
    for wrong in ({"metrics": ["nn"]}, {"metrics": ["fid"], "heldout": True}):
        with pytest.raises(ValueError, match=r"nn|--heldout"):
            evaluated(loaded, **wrong, stats=stats)
    with pytest.raises(NoHeldout):
        sources.source(loaded.config, "heldout")


def test_without_labels_there_is_no_svm(loaded, monkeypatch):
    unlabelled = sources.source(loaded.config, "train")._replace(classes=0)
    monkeypatch.setattr(sources, "source", lambda config, split: unlabelled)
    config = loaded.config.copy_and_resolve_references()
    config.data.classes = 0
    assert "svm_confidence" not in sample_metrics.svm_metrics(loaded._replace(config=config), 24, seed=100)


def test_without_stats_a_reference_is_measured_once(loaded, workdir):
    found = evaluated(loaded, ["fid"], "pixels", number=80)
    path = workdir / "evaluation" / "stats_pixels.npz"
    written = path.stat().st_mtime_ns
    source = digits("train")
    mean, cov = frechet.statistics(source.read(np.arange(source.size))[0].reshape(-1, 64))
    stored = _samples(workdir)
    samples = np.stack([np.frombuffer(stored[seed], np.uint8) for seed in range(80)])
    expected = frechet.frechet_distance(mean, cov, *frechet.statistics(samples))
    assert found["fd_pixels_80"] == pytest.approx(expected, rel=1e-6)
    assert evaluated(loaded, ["fid"], "pixels", number=80) == found and path.stat().st_mtime_ns == written
    ours = reference.read(path)
    other = ours.provenance | {"fingerprint": "of other data of the same name and size"}
    reference.write(path, ours._replace(mean=ours.mean + 1, provenance=other))
    assert evaluated(loaded, ["fid"], "pixels", number=80) == found


def test_features_of_the_user(loaded, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def corners(x):\n    return x[:, ::7, ::7, 0].reshape(len(x), 4)\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert evaluated(loaded, ["fid"], "mine:corners", number=40)["fd_corners_40"] > 0


def test_layout_of_openai(loaded, workdir, tmp_path, stats):
    out = tmp_path / "x.npz"
    argv = ["main", "sample", f"--workdir={workdir}", "--num_samples=5", f"--out={out}"]
    assert main.run([*argv, "--layout=openai"]) == 0
    evaluated(loaded, ["fid"], stats=stats, number=5)
    stored = _samples(workdir)
    grey = np.stack([np.frombuffer(stored[seed], np.uint8).reshape(8, 8, 1) for seed in range(5)])
    with np.load(out) as file:
        assert file.files == ["arr_0"] and file["arr_0"].dtype == np.uint8
        np.testing.assert_array_equal(file["arr_0"], np.round(grey * (255 / 16)).astype(np.uint8).repeat(3, -1))


# Bad input. {stats} fits the run, {tmp} holds what does not.

ANY_STATS = ["stats", "--out={tmp}/x.npz"]
STATS = [*ANY_STATS, "--config=configs/digits.py"]
BAD_STATS = [
    ([*STATS, "--features=digits", "--out={tmp}/x.txt"], "--out="),
    ([*STATS, "--features=digits", "--keep=1"], "--keep=1"),
    ([*STATS, "--features=digit"], "features='digit'"),
    ([*STATS, "--features=mine_bad:nans"], "example 3"),
    ([*ANY_STATS, "--config=configs/toy2d.py:tiny", "--features=digits"], "(2,)"),
    (
        [*ANY_STATS, "--config=configs/digits.py", "--config.data.name=arrays", "--config.data.arrays.levels=0",
         "--config.data.arrays.path={tmp}/floats.npz", "--features=digits"],
        "features=digits",
    ),
]  # fmt: skip
BAD = [
    ({"number": 300, "allowed": ()}, "--allow=sizes"),
    ({"number": 40, "allowed": ("sizes",)}, "--allow=few,sizes"),
    ({"number": 3}, "--num_samples=3"),
    ({"number": 7, "metrics": ["fid", "pr"]}, "--num_samples=7"),
    ({"number": 64, "allowed": ("sizes",), "heldout": True}, "--heldout"),
    ({"seed": -1}, "--seed=-1"),
    ({"allowed": ("all",)}, "--allow=all"),
    ({"replicates": 1}, "--bootstrap=1"),
    ({"metrics": ["fjd"]}, "metrics='fjd'"),
    ({"features": "pixels"}, "features: "),
    ({"features": "nowhere:f"}, "features='nowhere:f'"),
    ({"stats": "{tmp}/none.npz"}, "none.npz"),
    ({"stats": "{tmp}/broken.npz"}, "broken.npz"),
    ({"stats": "{tmp}/other.npz"}, "levels: "),
    ({"stats": "{tmp}/retrained.npz"}, "weights: "),
    ({"stats": "{tmp}/larger.npz"}, "shape: "),
]


@pytest.fixture
def bad_things(tmp_path, stats, monkeypatch):
    good = reference.read(stats)
    for name, change in {
        "other": {"levels": 256},
        "retrained": {"weights": "0123456789abcdef"},
        "larger": {"shape": [16, 16, 1]},
    }.items():
        reference.write(tmp_path / f"{name}.npz", good._replace(provenance=good.provenance | change))
    (tmp_path / "broken.npz").write_bytes(stats.read_bytes()[:1000])
    np.savez(tmp_path / "floats.npz", x=np.linspace(0, 255, 10 * 64, dtype=np.float32).reshape(10, 8, 8, 1))
    (tmp_path / "mine_bad.py").write_text(
        "import numpy as np\ndef nans(x):\n    return np.where(np.arange(len(x))[:, None] == 3, np.nan, x[:, 0, :, 0])"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("argv", "key"), BAD_STATS, ids=lambda value: value if isinstance(value, str) else None)
def test_bad_statistics_are_one_line(argv, key, bad_things, capsys):
    assert main.run(["main", *(word.format(tmp=bad_things) for word in argv)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[-1].startswith("error: ") and key in errors[-1]
    assert not list(bad_things.glob("*x.*"))


@pytest.mark.parametrize(("wrong", "key"), BAD, ids=lambda value: value if isinstance(value, str) else None)
def test_bad_inputs_are_refused_before_sampling(wrong, key, loaded, workdir, stats, bad_things):
    before = shards(workdir)
    options = {"metrics": ["fid"], "stats": str(stats), **wrong}
    options["stats"] = options["stats"].format(tmp=bad_things)
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(key)):
        evaluated(loaded, **options)
    assert shards(workdir) == before


def test_sizes_are_checked_before_the_features_of_the_training_data(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(sample_metrics.quality, "measure", lambda *_: pytest.fail("computed features"))
    run = loaded._replace(workdir=str(tmp_path))
    for allowed in ((), ("sizes",)):
        with pytest.raises(ValueError, match="--allow=few,sizes"):
            options = sample_metrics.Options(40, 0, allowed)
            sample_metrics.prepare_metrics(run, ["fid"], "digits", "", "", options)


def test_a_damaged_file_of_samples_is_refused(loaded, stats, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(loaded.workdir, copy)
    run = loaded._replace(workdir=str(copy))
    evaluated(run, ["fid"], stats=stats, number=16)
    shards(copy)[0].write_bytes(shards(copy)[0].read_bytes()[:-100])
    with pytest.raises(ValueError, match=re.escape(str(shards(copy)[0]))):
        evaluated(run, ["fid"], stats=stats, number=16)
