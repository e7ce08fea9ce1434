"""Compressed files of a run: the same bytes come back, on any number of devices, and damage is told before."""

import re

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax import config as configs
from diffusion_jax.analysis import compression, vlb
from diffusion_jax.devices import sharding
from diffusion_jax.experiment import sources
from diffusion_jax.objective.prediction import Prediction
from diffusion_jax.process.base import expand
from diffusion_jax.process.binomial import BinomialProcess
from diffusion_jax.runs import trained

COUNT = 70
"""Enough for groups of several sizes."""


@pytest.fixture(scope="module")
def run(workdir):
    return trained.load(str(workdir))


@pytest.fixture(scope="module")
def packed(run, tmp_path_factory):
    """(file, figures) of `main compress`."""
    file = tmp_path_factory.mktemp("packed") / "digits.djx"
    source = sources.source(run.config, "heldout")
    return file, compression.compress(run, source._replace(size=COUNT), file)


def test_the_same_examples_come_back(workdir, run, packed, command, tmp_path):
    file, figures = packed
    out = tmp_path / "back.npz"
    done = command("decompress", f"--workdir={workdir}", f"--file={file}", f"--out={out}")
    assert done.code == 0, done.err
    assert done.results["num_examples"] == COUNT
    x, label = sources.source(run.config, "heldout").read(np.arange(COUNT))
    with np.load(out) as found:
        assert found["samples"].dtype == x.dtype
        np.testing.assert_array_equal(found["samples"], x)
        np.testing.assert_array_equal(found["labels"], label)
    assert figures["bytes"] == file.stat().st_size
    assert figures["gross_bits_per_dim"] == pytest.approx(8 * file.stat().st_size / x.size)
    # An escape costs fewer bits than the far tail of a Gaussian, which an untrained network needs often.
    assert 0 < figures["net_bits_per_dim"] <= figures["bound_bits_per_dim"] + 4 * figures["bound_bits_per_dim_stderr"]
    assert figures["gross_bits_per_dim"] > figures["net_bits_per_dim"]


def test_only_the_first_example_needs_bits_of_its_own(run, packed, tmp_path):
    """Later ones draw their latents with bits of the code before them."""
    file, figures = packed
    source = sources.source(run.config, "heldout")
    alone = compression.compress(run, source._replace(size=1), tmp_path / "one.djx")
    groups = compression.read_header(file)["groups"]
    assert groups[0] == 1 and max(groups) > 1 and sum(groups) == COUNT
    assert COUNT * figures["start_bits_per_dim"] <= 1.5 * alone["start_bits_per_dim"]


def test_partial_decodings_lie_on_the_rate_distortion_curve(run, tmp_path):
    """By a denoiser of independent Gaussian pixels; within 5 standard errors of two draws of the noise."""

    def shrink(params, x_t, level, label=None, keys=None):
        alpha, sigma = expand(level.alpha, x_t), expand(level.sigma, x_t)
        x0 = -0.4 + alpha * 0.5 / (alpha**2 * 0.5 + sigma**2) * (x_t + 0.4 * alpha)
        return Prediction(x0, (x_t - alpha * x0) / sigma, None)

    other = run._replace(experiment=run.experiment._replace(predict=shrink))
    source = sources.source(run.config, "heldout")._replace(size=COUNT)
    compression.compress(other, source, tmp_path / "x.djx")
    x, label, curves, restored = compression.progressive(other, tmp_path / "x.djx", 99)
    np.testing.assert_array_equal(x, source.read(np.arange(COUNT))[0])
    np.testing.assert_array_equal(label, source.read(np.arange(COUNT))[1])
    terms, times = vlb.bound_terms(other, source)
    rates = np.cumsum(np.concatenate([terms.prior[:, None], terms.steps[:, :-1]], 1), 1, np.float64)  # nats an example
    mean, spread = rates.mean(0), 2 * rates.var(0, ddof=1) + 2 * rates.mean(0)  # log q/p has a variance of twice its KL
    found = curves["rate_bits_per_dim"] * x[0].size * np.log(2)
    np.testing.assert_array_less(np.abs(found - mean), 5 * np.sqrt(spread / COUNT))
    square = np.asarray(terms.mse, np.float64)
    error = np.sqrt(2) * square.std(0, ddof=1) / np.sqrt(COUNT)
    np.testing.assert_array_less(np.abs(np.square(curves["rmse"] / 127.5) - square.mean(0)), 5 * error)
    np.testing.assert_array_equal(curves["t"], times)
    assert restored.shape == (len(times), *x.shape) and restored.dtype == x.dtype
    assert len(compression.progressive(other, tmp_path / "x.djx", 2)[2]["t"]) == 2


def test_the_way_as_a_picture(workdir, packed, command, tmp_path):
    flags = [f"--workdir={workdir}", f"--file={packed[0]}", f"--out={tmp_path}/x.npz"]
    done = command("decompress", *flags, "--progressive=2", "--format=svg")
    assert done.code == 0 and len(done.results["rmse"]) == len(done.results["rate_bits_per_dim"]) == 2
    assert not (tmp_path / "x.png").exists()
    assert done.results["picture"] == str(tmp_path / "x.svg") and (tmp_path / "x.svg").exists()
    assert command("decompress", *flags, "--progressive=-1").code == 2


def test_the_file_does_not_depend_on_the_number_of_devices(workdir, packed, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    alone = trained.load(str(workdir))
    source = sources.source(alone.config, "heldout")
    compression.compress(alone, source._replace(size=COUNT), tmp_path / "one.djx")
    assert (tmp_path / "one.djx").read_bytes() == packed[0].read_bytes()


def test_nothing_is_compiled_with_options_that_depend_on_the_devices(run, monkeypatch):
    monkeypatch.setattr(sharding, "compiler_options", lambda: pytest.fail("asked for"))
    compression._model(run)


def test_another_file_is_refused_and_nothing_written(workdir, packed, command, tmp_path):
    file, out = tmp_path / "broken.djx", tmp_path / "back.npz"
    file.write_bytes(packed[0].read_bytes()[:-5])
    done = command("decompress", f"--workdir={workdir}", f"--file={file}", f"--out={out}")
    assert done.code == 2 and not out.exists()
    assert len([line for line in done.err if line.startswith("error: ") and str(file) in line]) == 1


@settings(deadline=None, max_examples=60, derandomize=True)
@given(data=st.data())
def test_no_damage_is_overlooked(packed, tmp_path_factory, data):
    """A changed byte anywhere, header included, a file that ends early, or one that goes on."""
    sound = packed[0].read_bytes()
    place = data.draw(st.integers(0, len(sound) - 1))
    broken = data.draw(
        st.sampled_from(
            [sound[:place], sound + sound[place:], sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :]]
        )
    )
    file = tmp_path_factory.mktemp("damaged") / "broken.djx"
    file.write_bytes(broken)
    with pytest.raises(ValueError, match=re.escape(str(file))):
        compression.read_header(file)


@pytest.mark.parametrize(
    "key", ["model_sha256", "device_kind", "jax", "num_steps", "threads", "tile", "shape", "format"]
)
def test_a_file_of_another_model_or_machine_is_refused_before_decoding(run, packed, tmp_path, monkeypatch, key):
    header, words = compression._read(packed[0])
    monkeypatch.setattr(compression, "_read", lambda file: (header | {key: "another"}, words))
    with pytest.raises(ValueError, match=key):
        compression.decompress(run, tmp_path / "another.djx")


def test_a_file_of_an_older_format_is_refused(tmp_path):
    header = b'{"format":1}'
    body = len(header).to_bytes(4, "little") + header
    (tmp_path / "old.djx").write_bytes(compression.MAGIC + compression._digest(body).encode() + body)
    with pytest.raises(ValueError, match="format 1"):
        compression.read_header(tmp_path / "old.djx")


@pytest.mark.parametrize("key, value", [("data.levels", 0), ("process.name", "binomial"), ("data.std", 0.5)])
def test_runs_that_cannot_compress(run, key, value):
    other = run._replace(config=run.config.copy_and_resolve_references())
    configs.put(other.config, key, value)
    if value == "binomial":
        other = other._replace(experiment=other.experiment._replace(process=BinomialProcess()))
    with pytest.raises(ValueError, match=key):
        compression.check(other)


@pytest.mark.parametrize("flag", ["--num_examples=-1", "--num_steps=-2", "--num_steps=100", "--split=test"])
def test_flags_that_no_run_takes(command, workdir, tmp_path, flag):
    done = command("compress", f"--workdir={workdir}", f"--out={tmp_path}/x.djx", flag)
    assert done.code == 2 and flag.split("=")[0].strip("-") in done.err[-1]
    assert not (tmp_path / "x.djx").exists()
