"""The frontier: every cell is drawn once, with counted network calls, and bad input is refused before."""

import json

import numpy as np
import pytest
from PIL import Image

from diffusion_jax import config as configs
from diffusion_jax import main
from diffusion_jax.analysis import frontier
from diffusion_jax.runs import plots, stored_samples, trained

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("toy")
    flags = ["--config.report.tensorboard=False", "--config.report.samples_every=0", "--config.eval.every=0"]
    assert main.run(["main", "train", "--config=configs/toy2d.py:tiny", f"--workdir={path}", *flags]) == 0
    return path


def width(path):
    with Image.open(path) as image:
        return image.size[0]


def run(capsys, workdir, *flags):
    code = main.run(["main", "frontier", f"--workdir={workdir}", *flags])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err


def test_cells_are_drawn_once_and_add_to_one_table(workdir, capsys, monkeypatch, tmp_path):
    code, lines, errors = run(capsys, workdir, "--samplers=ode_heun,dpmpp_2m:logsnr", "--steps=2", "--num_samples=40")
    result = json.loads(lines[-1])
    assert code == 0 and result["cells"] == result["computed"] == 2 and result["features"] == "pixels", errors
    monkeypatch.setattr(stored_samples.drawing, "samples", lambda *args, **options: pytest.fail)
    monkeypatch.setattr(frontier, "svm_confidence", lambda *_: pytest.fail("computed again"))
    code, lines, _ = run(capsys, workdir, "--samplers=ode_heun", "--steps=2", "--num_samples=40")
    assert code == 0 and json.loads(lines[-1]) == result | {"computed": 0}
    assert sum(line.startswith("| ode_heun | uniform | 2 | 40 | 3 |") for line in lines) == 1
    assert sum(line.startswith("| dpmpp_2m | logsnr | 2 | 40 | 2 |") for line in lines) == 1
    folder = next((workdir / "evaluation").glob("*-*"))
    with np.load(folder / "frontier.npz") as file:
        assert sorted(file["network_calls"]) == [2, 3]
        assert np.all(file["frechet_low"] < file["frechet_pixels"])
    assert (folder / "frontier.csv").read_text().count("\n") == 3
    assert width(folder / "frontier.png") > 300
    cells = sorted((folder / "frontier").glob("*.npz"))
    cell = frontier.read_cell(cells[0])
    assert cell["sampler"] == "dpmpp_2m" and cell["seconds"] > 0
    shards = list((folder / cell["samples"]).glob("[0-9]*.npz"))
    assert sum(len(np.load(path)["samples"]) for path in shards) == 40

    # other features, without intervals, from the stored samples
    (tmp_path / "my_features.py").write_text("def halves(x):\n    return x[:, :1] / 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    flags = ["--samplers=ode_heun", "--steps=2", "--num_samples=40", "--features=my_features:halves"]
    code, lines, errors = run(capsys, workdir, *flags, "--bootstrap=0")
    assert code == 0 and json.loads(lines[-1])["computed"] == json.loads(lines[-1])["cells"] == 1, errors
    with np.load(folder / "frontier_halves.npz") as file:
        assert "frechet_low" not in file.files and file["frechet_halves"] > 0 and "seconds" not in file.files
    assert width(folder / "frontier_halves.png") > 300
    for draws, computed in ((2, 1), (2, 0), (3, 1)):  # the interval is added, kept, and computed from more draws
        code, lines, _ = run(capsys, workdir, *flags, f"--bootstrap={draws}")
        assert code == 0 and json.loads(lines[-1])["computed"] == computed
    cells[0].write_bytes(b"cut")
    code, _, errors = run(capsys, workdir, "--samplers=ode_heun", "--steps=2", "--num_samples=40")
    assert code == 2 and str(cells[0]) in errors


def test_other_options_make_other_cells(workdir):
    run = trained.load(str(workdir))
    run.config.sampler.ddim.eta = 1.0
    noisy = frontier.make_cell(run, "ddim", 2, 10, 0)
    run.config.sampler.ddim.eta = 0.0
    still = frontier.make_cell(run, "ddim", 2, 10, 0)
    assert noisy.label == "ddim eta=1.0" and still.label == "ddim" and noisy.name != still.name
    assert frontier.make_cell(run, "ddim", 2, 11, 0).name != still.name


def test_other_options_of_a_grid_of_your_own_make_other_cells(workdir, tmp_path, monkeypatch):
    (tmp_path / "my_grid.py").write_text("from diffusion_jax.sampling.grids import karras as mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    names = set()
    for rho in (2.0, 5.0):
        run = trained.load(str(workdir))
        configs.override_all(run.config, {"sampler.grid": "my_grid:mine", "sampler.grid_options.rho": str(rho)})
        names.add(frontier.make_cell(run, "ddim", 2, 10, 0).name)
    assert len(names) == 2


@pytest.mark.parametrize(
    ("sampler", "found"),
    [
        ("ddim", ("ddim", "")),
        ("ddim:karras", ("ddim", "karras")),
        ("ddim:my:grid", ("ddim", "my:grid")),
        ("my:sampler", ("my:sampler", "")),
        ("my:sampler:karras", ("my:sampler", "karras")),
        ("my:sampler:my:grid", ("my:sampler", "my:grid")),
        ("ddimm", ("ddimm", "")),
        ("ddimm:karras", ("ddimm", "karras")),
    ],
)
def test_samplers_and_grids_of_your_own_have_names(sampler, found):
    assert frontier.split_name(sampler) == found


def test_a_sampler_of_your_own_makes_a_cell(workdir, tmp_path, monkeypatch):
    (tmp_path / "my_sampler.py").write_text("from diffusion_jax.sampling.ddpm import ddim as mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    cell = frontier.make_cell(trained.load(str(workdir)), "my_sampler:mine:karras", 2, 10, 0)
    assert cell.run.config.sampler.grid == "karras" and ":" not in cell.name


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        (["--samplers=ddimm"], "sampler.name='ddimm'"),
        (["--samplers=ddim:log"], "sampler.grid='log'"),
        (["--steps=5,x"], "--steps=5,x"),
        (["--steps=9"], "9"),
        (["--num_samples=1"], "--num_samples=1"),
        (["--bootstrap=1"], "--bootstrap=1"),
        (["--samplers=,"], "--samplers"),
        (["--steps="], "--steps"),
        (["--features=digits"], "digits"),
        (["--seed=-1"], "--seed=-1"),
    ],
)
def test_bad_input_is_one_line(flags, key, workdir, capsys, monkeypatch):
    monkeypatch.setattr(stored_samples, "samples", lambda *_: pytest.fail("drawn"))
    code, lines, errors = run(capsys, workdir, *flags)
    assert code == 2 and not lines and key in errors.splitlines()[-1]


def test_picture_has_a_second_panel_for_the_svm(tmp_path):
    cell = {
        "sampler": "ddim",
        "grid": "uniform",
        "num_steps": 5,
        "num_samples": 10,
        "frechet_low": 1.0,
        "frechet_high": 3.0,
    }
    cells = [cell | {"network_calls": n, "frechet_pixels": 2.0, "svm_confidence_ratio": 0.9} for n in (5, 10)]
    plots.frontier(tmp_path / "f.png", cells, "title", 1.5)
    with_svm = width(tmp_path / "f.png")
    for one in cells:
        del one["svm_confidence_ratio"]
    plots.frontier(tmp_path / "f.png", cells, "title", 1.5)
    assert with_svm > width(tmp_path / "f.png")
    plots.frontier(tmp_path / "f.png", cells, "title", None)
    text = frontier.markdown("title", cells, None, "pixels", 5)
    assert "Held-out" not in text and "Held-out" in frontier.markdown("title", cells, 1.5, "pixels", 5)
