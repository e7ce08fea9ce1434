"""Guidance and restoration through the commands, on points in the plane: tiny perceptrons, real workdirs."""

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
CLASSIFIER = ["--config.loss.name=cross_entropy"]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Workdirs by name: a conditional model, one without labels (and of data in a range of their own), a classifier."""
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


def test_the_class_can_be_chosen(runs, capsys):
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
def test_guidance_of_every_kind_changes_samples_as_its_scale_says(name, flags, runs, capsys):
    flags = ["--label=2", *(flag.format(runs=runs) for flag in flags)]
    neutral = "0" if name == "plain" else "1"
    by = {w: drawn(capsys, runs, name, *flags, f"--guidance.scale={w}")["samples"] for w in (neutral, "5")}
    plain = drawn(capsys, runs, name, *([] if name == "plain" else ["--label=2"]))["samples"]
    np.testing.assert_array_equal(by[neutral], plain)
    assert np.isfinite(by["5"]).all() and np.abs(by["5"] - plain).max() > 1e-6


def test_a_guide_is_read_from_its_own_run(runs):
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
    "task", [["--task=inpaint", "--rule=renoise", "--repeats=2", "--length=2"], ["--task=denoise"]]
)
def test_held_out_examples_are_restored(task, runs, capsys):
    out = runs / "restored.npz"
    code, lines, errors = run(
        capsys, "restore", f"--workdir={runs / 'plain'}", *task, "--num_samples=6", f"--out={out}"
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


BAD = [
    ("sample", "cond", ["--label=8"], "--label=8 is not a class; they are 0 to 7"),
    ("sample", "plain", ["--label=0"], "--label=0, but this model is not told the class"),
    ("sample", "plain", ["--guidance.scale=2.0"], "guidance.scale=2.0 means nothing with guidance.name='none'"),
    ("sample", "plain", ["--guidance.name=classifier_free"], "needs a model trained with and without labels"),
    ("sample", "plain", ["--guidance.name=clasifier"], "(did you mean 'classifier'?)"),
    ("sample", "plain", ["--guidance.name=classifier"], "name the run that guides, --guidance.classifier.workdir=DIR"),
    ("sample", "cond", ["--guidance.name=autoguidance"], "or a worse step or average of this one"),
    ("sample", "plain", ["--guidance.name=classifier", "--guidance.classifier.workdir={runs}/plain"],
     "{runs}/plain was trained with loss.name='simple'; use another run"),
    ("sample", "plain", ["--guidance.name=classifier", "--guidance.classifier.workdir={runs}/none"], "no checkpoint"),
    ("sample", "cond", ["--guidance.name=classifier_free", "--guidance.interval_t=(0.5,0.2)"], "two times that rise"),
    ("sample", "cond", ["--guidance.name=classifier_free", "--guidance.rescale=2.0"], "guidance.rescale=2.0"),
    ("sample", "cls", [], "this run holds a classifier"),
    ("evaluate", "plain", ["--scales=1,2"], "this model is asked for no class"),
    ("evaluate", "cond", ["--scales=1,x"], "--scales='1,x' must be numbers"),
    ("evaluate", "plain", ["--likelihood=vlb"], "--likelihood=vlb is for data in [-1, 1], which data.mean, std or"),
    ("restore", "plain", ["--task=inpant"], "--task='inpant' is not known (did you mean 'inpaint'?)"),
    ("restore", "plain", ["--task=superres"], "factor=2 must be 2 or more and divide height and width of images"),
    ("restore", "plain", ["--task=colourise"], "C > 1"),
    ("restore", "plain", ["--rule=renoised"], "(did you mean 'renoise'?)"),
    ("restore", "plain", ["--rule=renoise", "--noise=0.1"], "--rule=renoise takes none"),
    ("restore", "plain", ["--task=denoise", "--noise=0"], "nothing is missing"),
    ("restore", "plain", ["--rule=constant", "--repeats=2"], "one of renoise, noise_aware to repeat"),
    ("restore", "plain", ["--num_samples=0"], "--num_samples=0 must lie in 1"),
    ("restore", "plain", ["--mask={runs}/mask.npy"], "the mask has shape (3,), but the examples (2,)"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "name", "flags", "message"), BAD)
def test_bad_input_is_one_line(command, name, flags, message, runs, capsys):
    np.save(runs / "mask.npy", np.array([True, False, True]))
    out = [] if command == "evaluate" else [f"--out={runs}/bad.npz"]
    argv = [command, f"--workdir={runs / name}", *out, *(flag.format(runs=runs) for flag in flags)]
    code, lines, errors = run(capsys, *argv)
    complaints = [line for line in errors if line.startswith("error: ")]
    assert code == 2 and not lines and len(complaints) == 1
    assert message.format(runs=runs) in complaints[0]
    assert not (runs / "bad.npz").exists()
