"""Likelihoods of a run side by side, the adaptive sampler, and encoding, by the commands, on a small perceptron."""

import json
import pathlib

import numpy as np
import pytest

from diffusion_jax import main
from diffusion_jax.analysis import likelihoods
from diffusion_jax.runs import trained

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        flags = ["--config.report.tensorboard=False", "--config.report.samples_every=0", "--config.train_steps=30"]
        flags += [f"--config.{name}.every=30" for name in ("report", "eval", "checkpoint")]
        flags += ["--config.bound.decoder=density", "--config.ode.dequantisation=none", "--config.process.num_steps=20"]
        flags += ["--config.prediction.target=v"]
        argv = ["main", "train", "--config=configs/toy2d.py:tiny", f"--workdir={path}", *flags]
        assert main.run(argv) == 0
    return path


def run(capsys, *argv):
    """Exit code, standard output as lines, standard error as lines."""
    code = main.run(["main", *map(str, argv)])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err.splitlines()


def test_all_estimators_in_one_table(workdir, capsys):
    flags = ["--likelihood=vlb,multi,ode", "--bound.num_examples=10", "--ode.probes=3"]
    code, lines, errors = run(capsys, "evaluate", f"--workdir={workdir}", *flags)
    assert code == 0, errors
    figures = json.loads(lines[-1])
    table = [line.split("|")[1].strip() for line in lines[:-1]]
    assert table == ["likelihood", "---", "vlb", "multi_1", "multi_4", "multi_16", "ode"]
    assert figures["bound_examples"] == figures["multi_examples"] == figures["ode_examples"] == 10
    assert figures["multi_bits_per_dim_16"] <= figures["multi_bits_per_dim_4"] <= figures["multi_bits_per_dim_1"]
    parts = [figures[f"ode_{name}_bits_per_dim"] for name in ("prior", "volume", "scale")]
    assert figures["ode_bits_per_dim"] == pytest.approx(sum(parts), rel=1e-9)
    assert 0 < figures["ode_probes_bits_per_dim_stderr"] < figures["ode_bits_per_dim_stderr"]
    assert figures["ode_min_t"] == 1 / 20 and figures["ode_calls"] > 20
    for name in ("multi_1", "multi_16", "ode"):
        of = name.replace("multi_1", "multi_bits_per_dim_1") if name != "ode" else "ode_bits_per_dim"
        difference = figures[of] - figures["bits_per_dim"]
        assert figures[f"{name}_minus_vlb_bits_per_dim"] == pytest.approx(difference, abs=1e-6)
    one, error = figures["multi_1_minus_vlb_bits_per_dim"], figures["multi_1_minus_vlb_bits_per_dim_stderr"]
    assert abs(one) < 3 * error
    stored = json.loads((workdir / "evaluation" / f"{figures['step']}-0.999" / "figures.json").read_text())
    assert stored["ode_bits_per_dim"] == figures["ode_bits_per_dim"]


def test_results_of_examples_do_not_depend_on_their_number(workdir):
    """Nor on the call that they are part of: 4 devices x tile 4, so two calls of 16 rows."""
    bits = {}
    for number in (3, 9):
        run = trained.load(workdir, bound={"num_examples": number, "paths": (1, 2)})
        _, estimates = likelihoods.ESTIMATORS["multi"](run)()
        bits[number] = np.stack([estimate.bits for estimate in estimates])
    np.testing.assert_array_equal(bits[3], bits[9][:, :3])


def test_dopri5_samples_depend_on_their_seed_alone(workdir, tmp_path, capsys):
    def draw(number, seed):
        out = tmp_path / "x.npz"
        flags = ["--sampler.name=dopri5", f"--num_samples={number}", f"--seed={seed}", f"--out={out}"]
        code, lines, errors = run(capsys, "sample", f"--workdir={workdir}", *flags)
        assert code == 0, errors
        return json.loads(lines[-1]), np.load(out)["samples"]

    figures, many = draw(20, 5)
    _, few = draw(2, 11)
    np.testing.assert_array_equal(few, many[6:8])
    assert np.isfinite(many).all() and many.std() > 0.1 and 15 < figures["network_calls"] < 500


@pytest.mark.parametrize("by", ["ode", "ddim"])
def test_encode_writes_noise_that_decodes_to_the_data(by, workdir, tmp_path, capsys):
    out = tmp_path / "latents.npz"
    flags = ["--num_examples=6", f"--by={by}", f"--out={out}"]
    flags += ["--ode.rtol=1e-6", "--ode.atol=1e-6"] if by == "ode" else []
    code, lines, errors = run(capsys, "encode", f"--workdir={workdir}", *flags)
    assert code == 0, errors
    figures = json.loads(lines[-1])
    assert pathlib.Path(figures["picture"]).exists()
    assert figures["network_calls"] == 19 if by == "ddim" else figures["network_calls"] > 20
    with np.load(out) as file:
        error = np.abs(file["decoded"] - file["examples"]).max() / file["examples"].std()
        assert np.abs(file["latents"] - file["examples"]).max() > 1e-3
    assert error < (1e-4 if by == "ode" else 0.3)


# Bad input.

BAD = [
    (["evaluate", "--likelihood=odd"], "--likelihood='odd'"),
    (["evaluate", "--likelihood=vlb,mlti"], "--likelihood='mlti'"),
    (["evaluate", "--likelihood=multi", "--bound.paths=(1,3,4)"], "bound.paths=(1, 3, 4)"),
    (["evaluate", "--likelihood=multi", "--bound.paths=(1,'a')"], "bound.paths"),
    (["evaluate", "--likelihood=ode", "--ode.dequantisation=uniform"], "ode.dequantisation"),
    (["evaluate", "--likelihood=ode", "--ode.dequantisation=process", "--bound.decoder=bins"], "bound.decoder=density"),
    (["evaluate", "--likelihood=ode", "--ode.trace=exat"], "ode.trace='exat'"),
    (["evaluate", "--likelihood=ode", "--ode.law=priors"], "ode.law='priors'"),
    (["evaluate", "--likelihood=ode", "--ode.rtol=0"], "ode.rtol=0.0"),
    (["evaluate", "--likelihood=ode", "--ode.max_calls=8"],
     "--likelihood=ode: 16 of 16"),
    (["sample", "--out={tmp}/x.npz", "--sampler.name=dopri5", "--sampler.dopri5.max_calls=8", "--num_samples=3"],
     "sampler.name='dopri5': 3 of 3"),
    (["sample", "--out={tmp}/x.npz", "--sampler.name=dopri5", "--sampler.dopri5.atol=-1."],
     "sampler.dopri5.atol=-1.0"),
    (["encode", "--out={tmp}/x.npz", "--by=odd"], "--by"),
    (["encode", "--out={tmp}/x.png"], "--out="),
    (["encode", "--out={tmp}/x.npz", "--by=ddim", "--sampler.num_steps=1"], "sampler.num_steps"),
]  # fmt: skip


@pytest.mark.parametrize(("argv", "key"), BAD, ids=lambda value: value if isinstance(value, str) else None)
def test_bad_input_is_one_line(argv, key, workdir, tmp_path, capsys):
    command, *flags = (word.format(tmp=tmp_path) for word in argv)
    code, lines, errors = run(capsys, command, f"--workdir={workdir}", *flags)
    complaints = [line for line in errors if line.startswith("error: ")]
    assert code == 2 and not lines and len(complaints) == 1 and key in complaints[0]
    assert not list(tmp_path.glob("*.npz"))
