"""Guidance and restoration by the commands, on small perceptrons of points in the plane."""

import json
import pathlib

import jax
import numpy as np
import pytest

from diffusion_jax import main
from diffusion_jax.runs import trained

pytestmark = pytest.mark.usefixtures("one_device")

ROOT = pathlib.Path(__file__).parents[2]
TOY = ["--config=configs/toy2d.py:tiny", "--config.report.tensorboard=False", "--config.report.samples_every=0"]
TOY += ["--config.data.toy2d.size=400", "--config.train_steps=30", "--config.optimizer.learning_rate=0.02"]
TOY += ["--config.checkpoint.every=15", "--config.eval.every=30"]
CONDITIONAL = ["--config.network.conditional=True", "--config.network.label_dropout=0.25"]
SCALED = ["--config.data.mean=0.25", "--config.data.std=0.5"]
CLASSIFIER = ["--config.loss.name=cross_entropy", *SCALED]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run directories: a conditional model, an unconditional one of scaled data, and a classifier."""
    path = tmp_path_factory.mktemp("runs")
    kinds = {"cond": CONDITIONAL, "plain": SCALED, "cls": CLASSIFIER}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for name, flags in kinds.items():
            assert main.run(["main", "train", *TOY, *flags, f"--workdir={path / name}"]) == 0
    return path


def run(capsys, *argv):
    code = main.run(["main", *map(str, argv)])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err.splitlines()


def drawn(capsys, runs, name, *flags):
    out = runs / "x.npz"
    code, _, errors = run(capsys, "sample", f"--workdir={runs / name}", "--num_samples=8", f"--out={out}", *flags)
    assert code == 0, errors
    with np.load(out) as file:
        return dict(file)


def test_label_chooses_the_class(runs, capsys):
    threes = drawn(capsys, runs, "cond", "--label=3")
    np.testing.assert_array_equal(threes["labels"], 3)
    free = drawn(capsys, runs, "cond")
    same = free["labels"] == 3
    np.testing.assert_array_equal(free["samples"][same], threes["samples"][same])
    assert (free["samples"] != threes["samples"])[~same].any()


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("cond", ["--guidance.name=classifier_free"]),
        ("plain", ["--guidance.name=classifier", "--guidance.classifier.workdir={runs}/cls"]),
        ("cond", ["--guidance.name=autoguidance", "--guidance.autoguidance.step=15"]),
    ],
)
def test_every_guidance_changes_samples_with_its_scale(name, flags, runs, capsys):
    flags = ["--label=2", *(flag.format(runs=runs) for flag in flags)]
    neutral = "0" if name == "plain" else "1"
    by = {w: drawn(capsys, runs, name, *flags, f"--guidance.scale={w}")["samples"] for w in (neutral, "5")}
    plain = drawn(capsys, runs, name, *([] if name == "plain" else ["--label=2"]))["samples"]
    np.testing.assert_array_equal(by[neutral], plain)
    assert np.isfinite(by["5"]).all() and np.abs(by["5"] - plain).max() > 1e-6


def test_a_guide_is_loaded_from_its_own_run(runs):
    guided = trained.load(runs / "plain", guidance={"name": "classifier", "classifier": {"workdir": str(runs / "cls")}})
    own = trained.load(runs / "cls").params
    assert set(guided.params) == {"net", "classifier"}
    for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(guided.params["classifier"]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_scales_are_compared(runs, capsys):
    flags = ["--guidance.name=classifier_free", "--scales=0,1,3", "--num_samples=40"]
    code, lines, errors = run(capsys, "evaluate", f"--workdir={runs / 'cond'}", *flags)
    assert code == 0, errors
    rows = json.loads(lines[-1])["guidance"]
    assert [row["scale"] for row in rows] == [0, 1, 3]
    assert all(0 <= row["svm_agreement"] <= 1 and row["class_diversity"] > 0 for row in rows)
    directory = next((runs / "cond" / "evaluation").iterdir())
    assert (directory / "guidance.png").exists() and len((directory / "guidance.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    "task",
    [
        ["--task=inpaint", "--rule=renoise", "--repeats=2", "--length=2"],
        ["--task=inpaint", "--mask={runs}/known.npy"],
        ["--task=denoise"],
    ],
)
def test_held_out_examples_are_restored(task, runs, capsys):
    out = runs / "restored.npz"
    np.save(runs / "known.npy", np.array([True, False]))
    flags = [flag.format(runs=runs) for flag in task]
    code, lines, errors = run(
        capsys, "restore", f"--workdir={runs / 'plain'}", *flags, "--num_examples=6", f"--out={out}"
    )
    assert code == 0, errors
    result = json.loads(lines[-1])
    assert result["rmse"] > 0 and pathlib.Path(result["picture"]).exists()
    with np.load(out) as file:
        mask, degraded, restored, original = (file[name] for name in ("mask", "degraded", "restored", "original"))
    assert restored.shape == original.shape == (6, 2)
    if "--task=inpaint" in task:
        np.testing.assert_array_equal(mask, [True, False])
        np.testing.assert_allclose(restored[:, 0], original[:, 0], atol=1e-5)
        np.testing.assert_array_equal(degraded[:, 1], 0.25)  # 0 in the range of the model
    else:
        assert 0.1 < np.abs(degraded - original).mean() < 1


def solved(capsys, runs, name, *flags):
    out = runs / "solved.npz"
    argv = ("restore", f"--workdir={runs / name}", "--num_examples=6", f"--out={out}", "--sampler.num_steps=4", *flags)
    code, lines, errors = run(capsys, *argv)
    assert code == 0, errors
    return json.loads(lines[-1]), lines, out


DIFFERENCE = "jax.numpy:diff"


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        (
            "plain",
            [f"--operator={DIFFERENCE}", "--noise=0.1", "--draws=3", "--iterations=1", "--sampler.name=dpmpp_2m"],
        ),
        ("cond", ["--method=dps", "--task=denoise", "--guidance.name=classifier_free", "--guidance.scale=2"]),
    ],
)
def test_linear_problems_are_solved_by_guidance(name, flags, runs, capsys):
    result, _, out = solved(capsys, runs, name, *flags)
    with np.load(out) as file:
        arrays = dict(file)
    assert arrays["restored"].shape == arrays["original"].shape == (6, 2)
    assert result["network_calls"] == result["vjps"] > 0 and result["rmse"] > 0
    assert pathlib.Path(result["picture"]).exists()
    if name == "plain":
        assert 0 <= result["coverage"] <= 1 and arrays["draws"].shape == (6, 3, 2)
        np.testing.assert_array_equal(arrays["draws"][:, 0], arrays["restored"])
        np.save(runs / "y.npy", arrays["observed"])
        again, _, out = solved(capsys, runs, name, *flags, f"--y={runs}/y.npy")
        assert "rmse" not in again and again["misfit"] == pytest.approx(result["misfit"], rel=1e-5)
        with np.load(out) as file:
            np.testing.assert_allclose(file["draws"], arrays["draws"], atol=1e-5)


def test_operators_and_methods_make_a_table(runs, capsys):
    flags = [f"--operator=mask,{DIFFERENCE}", "--method=rule,pigdm", "--noise=0.3", "--sampler.name=ddim"]
    result, _, _ = solved(capsys, runs, "plain", *flags)
    rows = [(row["operator"], row["method"], row["sampler"]) for row in result["rows"]]
    assert rows == [("mask", "rule", "ancestral"), ("mask", "pigdm", "ddim"), (DIFFERENCE, "pigdm", "ddim")]
    assert len(pathlib.Path(result["table"]).read_text().splitlines()) == 5


BAD = [
    ("restore", "plain", ["--operator=blurr"], "'blurr'"),
    ("restore", "plain", ["--operator=blur"], "blur"),
    ("restore", "plain", ["--operator=none:such"], "'none:such'"),
    ("restore", "plain", ["--operator=jax.numpy:square"], "--operator"),
    ("restore", "plain", ["--operator=jax.numpy:trace"], "--operator"),
    ("restore", "plain", [f"--operator={DIFFERENCE}", "--method=rule"], "--method=rule"),
    ("restore", "plain", ["--method=dsp"], "'dsp'"),
    ("restore", "plain", ["--method=dps", "--noise=-0.1"], "--noise=-0.1"),
    ("restore", "plain", ["--method=dps", "--zeta=-1"], "--zeta=-1"),
    ("restore", "plain", ["--method=mmps", "--iterations=0"], "--iterations=0"),
    ("restore", "plain", ["--method=mmps", "--draws=0"], "--draws=0"),
    ("restore", "plain", ["--draws=2"], "--draws"),
    ("restore", "plain", ["--method=mmps", "--y={runs}/none.npy"], "none.npy"),
    ("restore", "plain", ["--method=mmps", "--y={runs}/mask.npy"], "(3,)"),
    ("sample", "cond", ["--label=8"], "--label=8"),
    ("sample", "plain", ["--label=0"], "--label=0"),
    ("sample", "plain", ["--guidance.scale=2.0"], "guidance.scale"),
    ("sample", "plain", ["--guidance.name=classifier_free"], "'classifier_free'"),
    ("sample", "plain", ["--guidance.name=clasifier"], "'clasifier'"),
    ("sample", "plain", ["--guidance.name=classifier"], "--guidance.classifier.workdir"),
    ("sample", "cond", ["--guidance.name=autoguidance"], "--guidance.autoguidance.workdir"),
    ("sample", "plain", ["--guidance.name=classifier", "--guidance.classifier.workdir={runs}/plain"],
     "{runs}/plain"),
    ("sample", "plain", ["--guidance.name=classifier", "--guidance.classifier.workdir={runs}/none"], "{runs}/none"),
    ("sample", "cond", ["--guidance.name=classifier", "--guidance.classifier.workdir={runs}/cls"], "data.mean"),
    ("sample", "plain", ["--guidance.name=classifier", "--guidance.classifier.workdir={runs}/cls",
                         "--guidance.rescale=0.5"], "guidance.rescale"),
    ("sample", "cond", ["--guidance.name=classifier_free", "--guidance.interval_t=(0.5,0.2)"], "guidance.interval_t"),
    ("sample", "cond", ["--guidance.name=classifier_free", "--guidance.rescale=2.0"], "guidance.rescale=2.0"),
    ("sample", "cls", [], "classifier"),
    ("evaluate", "plain", ["--scales=1,2"], "--scales"),
    ("evaluate", "cond", ["--scales=1,x"], "--scales='1,x'"),
    ("evaluate", "cond", ["--scales=1,2"], "--scales=1,2"),
    ("evaluate", "cond", ["--guidance.name=classifier_free", "--scales=1,2", "--num_samples=0"], "--num_samples=0"),
    ("evaluate", "plain", ["--likelihood=vlb"], "--likelihood=vlb"),
    ("restore", "plain", ["--sampler.name=predictor_corrector", "--sampler.predictor_corrector.predictor=ancestral"],
     "predictor_corrector"),
    ("restore", "plain", ["--task=inpant"], "--task='inpant'"),
    ("restore", "plain", ["--task=superres"], "factor=2"),
    ("restore", "plain", ["--task=colourise"], "(2,)"),
    ("restore", "plain", ["--rule=renoised"], "'renoised'"),
    ("restore", "plain", ["--rule=renoise", "--noise=0.1"], "--noise=0.1"),
    ("restore", "plain", ["--task=denoise", "--noise=0"], "--noise=0"),
    ("restore", "plain", ["--rule=constant", "--repeats=2"], "--repeats=2"),
    ("restore", "plain", ["--num_examples=0"], "--num_examples=0"),
    ("restore", "plain", ["--mask={runs}/mask.npy"], "mask.npy"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "name", "flags", "key"), BAD)
def test_bad_input_is_one_line(command, name, flags, key, runs, capsys):
    np.save(runs / "mask.npy", np.array([True, False, True]))
    out = [] if command == "evaluate" else [f"--out={runs}/bad.npz"]
    argv = [command, f"--workdir={runs / name}", *out, *(flag.format(runs=runs) for flag in flags)]
    code, lines, errors = run(capsys, *argv)
    complaints = [line for line in errors if line.startswith("error: ")]
    assert code == 2 and not lines and len(complaints) == 1
    assert key.format(runs=runs) in complaints[0]
    assert not (runs / "bad.npz").exists()
