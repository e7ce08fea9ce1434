"""The notebooks run as scripts, are committed with the outputs of a whole run, and equal their plain-text twins."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jupytext
import numpy as np
import pytest

from diffusion_jax import main
from diffusion_jax.analysis import compression, scales

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def a_run_and_a_sweep(tmp_path):
    """A tiny run, evaluated and shown, and a sweep with made up figures: the folders of 02_ddpm_analysis."""
    run = f"--workdir={tmp_path / 'tiny'}"
    quiet = ["--config.report.tensorboard=False", "--config.report.samples_every=0"]
    commands = [
        ["train", f"--config={ROOT / 'configs/digits.py'}:tiny", run, *quiet],
        ["evaluate", run, "--likelihood=vlb", "--num_samples=0"],
        ["show", run, "--num_samples=2"],
    ]
    for argv in commands:
        assert main.run(["main", *argv]) == 0
    cells = {
        "mean_vlb_fixed": ("finished", 5.0, 500.0),
        "eps_vlb_fixed": ("finished", 2.5, 40.0),
        "eps_simple": ("finished", 2.7, 60.0),
        "mean_simple": ("failed", 0.0, 0.0),
    }
    for cell, (status, bits, distance) in cells.items():
        for seed in (0, 1, 2):
            figures = {"bits_per_dim": bits + 0.01 * seed, "frechet_pixels": distance + seed}
            figures |= {"baseline_bits_per_dim": 2.4, "heldout_frechet_pixels": 36.0}
            path = tmp_path / "made_up" / cell / f"seed{seed}" / "result.json"
            path.parent.mkdir(parents=True)
            reason = f"train: exit code 3; see {path.parent / 'train.log'}" if status == "failed" else ""
            result = {"status": status, "reason": reason, "figures": figures, "steps": 2}
            path.write_text(json.dumps(result | {"train_seconds": 1.0, "evaluate_seconds": 1.0}))
    runs = {f"{cell}/seed{seed}": {} for cell in cells for seed in (0, 1, 2)}
    stored = {"sweep": "configs/sweeps/ddpm_table2.py:digits", "version": "0", "note": "", "runs": runs}
    (tmp_path / "made_up" / "sweep.json").write_text(json.dumps(stored))
    return {name: str(tmp_path / "tiny") for name in ("RUN", "LIKELIHOOD_RUN")} | {"SWEEPS": str(tmp_path / "made_up")}


def runs_of_2015(tmp_path):
    """Tiny runs of the recipes of 2015 with their bound K, and a sweep with made up figures."""
    for name in ("swissroll", "heartbeat", "deadleaves"):
        run = f"--workdir={tmp_path / name}"
        quiet = ["--config.report.tensorboard=False", "--config.report.samples_every=0", "--config.eval.every=0"]
        train = ["train", f"--config={ROOT / 'configs'}/dpm2015_{name}.py:tiny", run, *quiet]
        if name == "swissroll":  # without integrating over the roll
            train += ["--config.data.toy2d.kind=moons"]
        for argv in (train, ["evaluate", run, "--likelihood=K", "--num_samples=8"]):
            assert main.run(["main", *argv]) == 0
    for cell, bits in (("fixed", -2.0), ("learned", -1.5)):
        for seed in (0, 1):
            path = tmp_path / "dpm2015_rates" / cell / f"seed{seed}" / "result.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps({"status": "finished", "figures": {"K_bits": bits + 0.1 * seed}}))
    (tmp_path / "dpm2015_rates" / "sweep.json").write_text("{}")
    return {"RUNS": str(tmp_path)}


def a_frontier_and_scales(tmp_path):
    """Made up figures of one run each, a second one that has none, and little to compute: for 04_score_view."""
    folder = tmp_path / "judged" / "evaluation" / "2-0.9"
    (folder / "frontier").mkdir(parents=True)
    for sampler in ("ancestral", "dpmpp_2m"):
        for calls, value in ((5, 90.0), (50, 40.0)):
            figures = {"sampler": sampler, "grid": "uniform", "network_calls": calls, "num_samples": 100}
            figures |= {"frechet_pixels": value, "frechet_low": value - 5, "frechet_high": value + 5}
            np.savez(folder / "frontier" / f"{sampler}_{calls}.npz", figures=json.dumps(figures))
    (folder / "figures.json").write_text(json.dumps({"heldout_frechet_pixels": 36.0}))
    rows = ["0,0.1,1.0,0.8,40,50,100", "2,0.99,0.6,0.9,60,100,100"]
    (folder / "guidance.csv").write_text("\n".join([",".join(scales.COLUMNS), *rows]) + "\n")
    folders = os.pathsep.join([str(tmp_path / "judged"), str(tmp_path / "bare")])
    return {"FRONTIERS": folders, "GUIDED": folders, "STEPS": "40", "POINTS": "240"}


def results_of_uses(tmp_path, run):
    """Made up results of detect, compress and represent, beside a copy of a run: for 06_uses."""
    generator = np.random.default_rng(0)
    kinds = ("normal", "odd", "train")
    scores = {f"{score}_{kind}": generator.normal(kind == "odd", 1, 40) for score in ("bits", "path") for kind in kinds}
    np.savez(tmp_path / "detection.npz", **scores)
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))
    header = json.dumps({"format": compression.FORMAT, "groups": [20], "num_steps": 2, "levels": 17}).encode()
    body = len(header).to_bytes(4, "little") + header + bytes(40)
    (tmp_path / "run" / "x.djx").write_bytes(compression.MAGIC + compression._digest(body).encode() + body)
    folder = tmp_path / "run" / "evaluation" / "2-0.9"
    folder.mkdir(parents=True)
    figures = {"probe_cross_validated": {"mid t=0.1": 0.9, "mid t=0.5": 0.8}, "probe_block": "mid", "probe_t": 0.1}
    for prefix in ("", "pixels_", "pca_"):
        figures |= {f"{prefix}probe_accuracy": 0.9, f"{prefix}probe_accuracy_stderr": 0.1, f"{prefix}cluster_nmi": 0.5}
    (folder / "figures.json").write_text(json.dumps(figures))
    names = {"DETECTION": "detection.npz", "COMPRESSED": "run/x.djx", "REPRESENTED": "run"}
    return {name: str(tmp_path / path) for name, path in names.items()}


def a_sweep_of_neighbours(tmp_path, run):
    """Made up figures of three cells, whose first runs are a copy of a run: for 07_neighbours."""
    cells = {"diffusion": 0.5, "vae": 1.2, "gan": 0.8}
    for cell, value in cells.items():
        for seed in (0, 1):
            place = tmp_path / "sweep" / cell / f"seed{seed}"
            if seed:
                place.mkdir(parents=True)
            else:
                shutil.copytree(run, place, ignore=shutil.ignore_patterns("evaluation"))
            figures = {"fd_digits_1500": value + seed, "precision_digits_1500": 0.5, "recall_digits_1500": 0.5}
            figures |= {"fd_digits_1500_low": 0.0} | ({"bits_per_dim": 2.0} if cell == "vae" else {})
            result = {"status": "finished", "reason": "", "figures": figures, "steps": 2, "train_seconds": 3.0}
            (place / "result.json").write_text(json.dumps(result))
    runs = {f"{cell}/seed{seed}": {} for cell in cells for seed in (0, 1)}
    stored = {"sweep": "configs/sweeps/neighbours.py", "version": "0", "note": "", "runs": runs}
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(stored))
    return {"SWEEP": str(tmp_path / "sweep"), "LIKELIHOOD_RUN": str(run), "SMALL": "1"}


# name -> function(tmp_path) -> environment variables, for a notebook that reads something: a tiny run, made there
NEEDS = {
    "02_ddpm_analysis": a_run_and_a_sweep,
    "03_sohl_dickstein_2015": runs_of_2015,
    "04_score_view": a_frontier_and_scales,
}
SAID = {
    "04_score_view": (
        "judged: the lowest distance is 40; the fewest calls whose interval reaches it are 50, of ancestral on uniform",
        "bare: no frontier to read",
        "w = 2: agreement 99.0%, diversity 0.60, Fréchet distance of pixels 60, 100 calls",
        "bare: no guidance to read",
    ),
    "05_real_images": ("tiny: no frontier to read", "bits/dim; most for class"),
    "07_neighbours": ("vae        fd 1.70 ± 0.50", "T =    2: ", "gan        near a mode"),
    "06_uses": ("path            AUROC 0.", "pixels                probe 0.900"),
}

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_every_notebook_has_a_twin():
    assert NOTEBOOKS
    assert [path.stem for path in NOTEBOOKS] == sorted(path.stem for path in (ROOT / "notebooks").glob("*.py"))


def executed(path, tmp_path, needs):
    """The twin, run as a script in which warnings are errors."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-W", "error", path.with_suffix(".py")],
        env=os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": paths} | needs,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def read(tmp_path_factory, one_device):
    """The environment of a notebook by its name."""
    made = {name: make(tmp_path_factory.mktemp(name)) for name, make in NEEDS.items()}
    run = made["02_ddpm_analysis"]["RUN"]
    return made | {
        "05_real_images": {"RUNS": run},
        "06_uses": results_of_uses(tmp_path_factory.mktemp("uses"), run),
        "07_neighbours": a_sweep_of_neighbours(tmp_path_factory.mktemp("neighbours"), run),
    }


@pytest.mark.slow
@every_notebook
def test_twin_runs(path, tmp_path, read):
    run = executed(path, tmp_path, read.get(path.stem, {}))
    assert run.returncode == 0, run.stderr
    for said in SAID.get(path.stem, ()):
        assert said in run.stdout


def test_the_analysis_lists_missing_runs_and_compares_with_the_paper(tmp_path, read):
    needs = read["02_ddpm_analysis"]
    shutil.copytree(needs["RUN"], tmp_path / "tiny", ignore=shutil.ignore_patterns("progressive*"))
    needs = needs | {"RUN": str(tmp_path / "tiny")}
    missing = {"LIKELIHOOD_RUN": str(tmp_path / "a"), "SWEEPS": os.pathsep.join([str(tmp_path / "b"), needs["SWEEPS"]])}
    run = executed(ROOT / "notebooks/02_ddpm_analysis.py", tmp_path, needs | missing)
    assert run.returncode == 0, run.stderr
    for said in ("a: no bound to read", "b: no sweep to read", "tiny: no pictures to show"):
        assert said in run.stdout
    assert str(tmp_path) not in run.stdout
    _, bits, distance = run.stdout.split("made_up, ")
    assert "here eps_vlb_fixed < eps_simple < mean_vlb_fixed" in bits
    assert "agrees (1): eps_vlb_fixed < eps_simple" in bits
    assert "agrees (1): eps_simple < mean_vlb_fixed" in distance
    assert "contradicts (1): eps_simple < eps_vlb_fixed" in distance and "not run (3)" in distance
    assert "mean_simple, unstable to train in the paper: failed 3" in distance
    assert executed(ROOT / "notebooks/02_ddpm_analysis.py", tmp_path, missing | {"RUN": "none"}).returncode


@every_notebook
def test_notebook_equals_its_twin(path):
    notebook, twin = jupytext.read(path), jupytext.read(path.with_suffix(".py"))
    assert notebook.metadata["jupytext"]["formats"] == twin.metadata["jupytext"]["formats"] == "ipynb,py:percent"
    cells, twins = ([(cell.cell_type, cell.source) for cell in book.cells] for book in (notebook, twin))
    for cell, of_twin in zip(cells, twins, strict=True):
        assert cell == of_twin


@every_notebook
def test_committed_outputs_are_those_of_one_whole_run(path):
    cells = [cell for cell in jupytext.read(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert path.stat().st_size < 400_000
