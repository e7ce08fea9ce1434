"""The HTML page of a run: it holds every value, is self-contained, and a browser shows it; and the table of runs."""

import datetime
import html.parser
import json
import os
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from configs import digits as recipe
from diffusion_jax import config as configs
from diffusion_jax import main
from diffusion_jax.analysis import comparison, html_report
from diffusion_jax.runs import metric_log, pictures
from diffusion_jax.training import checkpoints

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def make_run(path, lr=2e-3, fd=1.5):
    """Write the files of a run and its evaluation, without training."""
    config = recipe.get_config()
    config.data.update(shape=(8, 8, 1), levels=17, classes=10, size=1500)
    config.optimizer.learning_rate = lr
    manager = checkpoints.open_manager(path)
    checkpoints.save(manager, 200, {"w": np.zeros(3)}, config.to_dict(), 0.25)
    manager.close()
    records = [{"step": n, "time": 1000.0 + 36 * n, "loss": 1 / n, "grad_norm": 0.1 * n} for n in (1, 100, 200)]
    records[-1] |= {"heldout_loss": 0.25, "fd_pixels_50": 2.0, "heldout_loss_bin_0": 0.3, "heldout_loss_bin_1": 0.2}
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for n in (10, 100, 200):
        samples = np.random.default_rng(n).integers(0, 17, (16, 8, 8, 1))
        pictures.save_png(path / "images" / f"samples_{n:08d}.png", samples, 17)
    folder = path / "evaluation" / "200-0.998"
    pictures.save_png(folder / "rate_distortion.png", np.zeros((1, 8, 8, 1), np.uint8), 17)
    figures = {"step": 200, "ema": "0.998", "bits_per_dim": 2.25, "fd_digits_300": fd}
    (folder / "figures.json").write_text(json.dumps(figures | {"fd_digits_300_low": fd - 1, "fd_digits_300_high": 3.0}))
    record = {
        "figures": {
            "fd_digits_300": {"value": fd, "low": fd - 1, "high": 3.0}, "fd_digits_297": {"value": 2, "std": 0.5}
        },
        "num_samples": 300, "seeds": [0, 299], "sampler": {"name": "ancestral"}, "network_calls": 1000,
        "quantisation": "rounded", "marked": ["sizes: <300> samples"],
        "reference": {"count": 1500, "data": "digits/train", "features": "digits", "weights": "abc"},
    }  # fmt: skip
    parzen = {
        "figures": {"parzen_bits": {"value": 292.75, "stderr": 3.25}}, "num_samples": 10_000, "seeds": [0, 9999],
        "sampler": {"name": "ddim"}, "network_calls": 100, "quantisation": "rounded", "marked": [],
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps({"digits 300 x": record, "parzen 10000 x": parzen}))
    return path


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "a & b")


def test_page_holds_every_value_and_is_self_contained(workdir, capsys):
    assert main.run(["main", "report", f"--workdir={workdir}"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    text = pathlib.Path(result["report"]).read_text()
    assert result["bytes"] == len(text.encode()) and "<h1>a &amp; b</h1>" in text
    for words in ("step 200 of 2,500", "Held-out loss 0.25000", "fd_digits_300", "[0.5, 3]", "± 0.5", "bits_per_dim",
                  "&lt;300&gt; samples", "1000 network calls", "digits/train", "optimizer.learning_rate",
                  "step 10<", "step 200<", "rate distortion", "± 3.25", "sampler ddim"):  # fmt: skip
        assert words in text, words
    sources = []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            sources.extend(value for key, value in attributes if key in ("src", "href"))
            assert tag not in ("script", "link", "iframe")

    Reader().feed(text)
    assert len(sources) == 7 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert "url(" not in text


@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium here")
def test_a_browser_shows_the_page(workdir, tmp_path):
    path = html_report.write_report(str(workdir))["report"]
    browser = next(filter(None, map(shutil.which, BROWSERS)))
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    options += ["--proxy-server=127.0.0.1:9", "--window-size=1100,2400", f"--screenshot={tmp_path / 'page.png'}"]
    env = os.environ | {"HOME": str(tmp_path)}
    subprocess.run(
        [browser, *options, pathlib.Path(path).as_uri()], check=True, capture_output=True, timeout=300, env=env
    )
    with Image.open(tmp_path / "page.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels.shape == (2400, 1100)
    written = (pixels < 128).mean(1) > 0  # rows that hold something dark
    assert written[:200].any() and written[400:1200].mean() > 0.3


@pytest.mark.parametrize("name", ["pdf", "svg"])
def test_figures_of_a_report_are_written_for_papers(name, tmp_path):
    run = make_run(tmp_path / "run")
    assert main.run(["main", "report", f"--workdir={run}", f"--format={name}"]) == 0
    assert {f"{stem}.{end}" for stem in ("curves", "loss_by_time", "values") for end in (name, "png")} <= {
        path.name for path in run.iterdir()
    }
    values = html_report.evaluated_values(run)
    assert list(values) == ["bits_per_dim", "fd_digits_300"] and values["fd_digits_300"] == [(200, 1.5, 0.5, 3.0)]
    np.testing.assert_equal(values["bits_per_dim"], [(200, 2.25, np.nan, np.nan)])


def test_a_run_without_checkpoints_is_refused(tmp_path, capsys):
    assert main.run(["main", "report", f"--workdir={tmp_path}"]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_runs_are_compared_where_they_differ(workdir, tmp_path, capsys):
    other = make_run(tmp_path / "other", lr=1e-3, fd=0.5)
    assert main.run(["main", "compare", str(workdir), str(other), f"--out={tmp_path / 'table.csv'}"]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    header, _, first, second = (line.strip("| ").split(" | ") for line in table)
    columns = ["run", "optimizer.learning_rate", "step", "hours", "evaluated", "bits_per_dim", "fd_digits_300"]
    assert header == columns
    assert first == [str(workdir), "0.002", "200", "1.99", "200-0.998", "2.25", "1.5 [0.5, 3]"]
    assert second[1] == "0.001" and second[-1] == "0.5 [-0.5, 3]"
    assert json.loads(last)["runs"][str(other)]["fd_digits_300_low"] == -0.5
    rows = [line.split(",") for line in (tmp_path / "table.csv").read_text().splitlines()]
    assert rows[0] == [*columns, "fd_digits_300_low", "fd_digits_300_high"] and float(rows[2][6]) == 0.5
    comparison.compare_runs([str(workdir)], str(tmp_path / "table.md"))
    assert (tmp_path / "table.md").read_text().startswith("| run | step |")
    config = configs.plain(checkpoints.read_config(workdir))
    config["data"].pop("augment")  # as a run of an older version, which is at the default
    older = tmp_path / "older"
    manager = checkpoints.open_manager(older)
    checkpoints.save(manager, 200, {"w": np.zeros(3)}, config, 0.25)
    manager.close()
    (older / "metrics.jsonl").write_text((workdir / "metrics.jsonl").read_text())
    text, _ = comparison.compare_runs([str(workdir), str(older)])
    assert text.startswith("| run | step |")
    assert main.run(["main", "compare", str(workdir), "--out=table.txt"]) == 2
    assert "--out=table.txt" in capsys.readouterr().err


def test_options_of_parts_that_are_not_chosen_are_left_out():
    made = {
        "network.name": "unet",
        "network.unet.blocks": 2,
        "sampler.grid": "karras",
        "sampler.karras.rho": 7.0,
        "seed": 0,
        "schedule.name": "mine:schedule",
        "schedule.options.width": 8,
    }
    assert configs.in_use(made | {"network.mlp.depth": 3}) == made


def test_unlike_runs_are_compared_in_the_choices_that_both_make(capsys, tmp_path, monkeypatch):
    unet = {"network.name": "unet", "network.unet.blocks": 2, "batch_size": 8, "report.every": 1}
    mlp = {"network.name": "mlp", "network.mlp.depth": 3, "batch_size": 9, "report.every": 2}
    assert comparison.differing_keys([unet, mlp]) == ["batch_size", "network.name", "report.every"]
    deeper = mlp | {"network.mlp.depth": 4, "report.every": 2}
    assert "network.mlp.depth" in comparison.differing_keys([unet, mlp, deeper])
    assert comparison.differing_keys([unet]) == []
    workdirs = [str(make_run(tmp_path / name, lr=lr)) for name, lr in (("a", 1e-3), ("b", 2e-3))]
    monkeypatch.setattr(comparison, "MOST_COLUMNS", 2)
    text, rows = comparison.compare_runs(workdirs, str(tmp_path / "all.csv"))
    assert text.splitlines()[0] == "| run | optimizer.learning_rate | step | hours |" and "3 more" in text
    assert "fd_digits_300" in (tmp_path / "all.csv").read_text() and rows["runs"][workdirs[0]]["fd_digits_300"] == 1.5


@pytest.mark.parametrize("change", ["no time", "no log", "cut figures", "other folder", "no heldout loss"])
def test_runs_that_are_half_there_are_compared(change, tmp_path, capsys):
    run = make_run(tmp_path / "run")
    figures = run / "evaluation" / "200-0.998" / "figures.json"
    if change == "no time":
        (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2}\n{"step": 2, "other": "nan"}\n')
    elif change == "no log":
        (run / "metrics.jsonl").unlink()
    elif change == "cut figures":
        figures.write_text(figures.read_text()[:20])
    elif change == "other folder":
        shutil.copytree(figures.parent, run / "evaluation" / "old-0.998")
    else:
        shutil.rmtree(run / "evaluation")
        (run / "metrics.jsonl").write_text('{"step": 1, "time": 1.0, "loss": 2}\n')
    for command in (["compare", str(run), str(run)], ["report", f"--workdir={run}"]):
        code = main.run(["main", *command])
        captured = capsys.readouterr()
        assert code == (2 if change == "cut figures" else 0), captured.err
        assert code == 0 or str(figures) in captured.err


def test_a_run_without_evaluation_is_compared_by_its_last_heldout_loss(tmp_path):
    run = make_run(tmp_path / "run")
    shutil.rmtree(run / "evaluation")
    _, table = comparison.compare_runs([str(run)])
    assert table["runs"][str(run)]["heldout_loss"] == metric_log.last(run, "heldout_loss")
    (run / "metrics.jsonl").unlink()
    _, table = comparison.compare_runs([str(run)])
    assert "heldout_loss" not in table["runs"][str(run)]


def test_hours_leave_out_the_pause_before_a_resume(tmp_path):
    times = [1000.0, 1600.0, 9000.0, 9600.0]
    lines = [json.dumps({"step": i, "time": t, "loss": 1.0}) for i, t in enumerate(times)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert comparison.hours(str(tmp_path)) == pytest.approx(8600 / 3600)
    starts = [datetime.datetime.fromtimestamp(t, datetime.UTC).isoformat() for t in (990, 8990)]
    record = [json.dumps({"event": "start", "time": at, "step": 0}) for at in starts]
    (tmp_path / "record.jsonl").write_text("\n".join(record) + "\n")
    assert comparison.hours(str(tmp_path)) == pytest.approx(1200 / 3600)


def test_pictures_of_a_step_without_figures_are_reported(tmp_path):
    run = make_run(tmp_path / "run")
    folder = run / "evaluation" / "220-0.998"
    folder.mkdir()
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(folder / "frontier.png")
    assert comparison.evaluations(run)[0][0].name == "200-0.998"
    assert [folder.name for folder, _ in comparison.evaluations(run, pictured=True)] == ["220-0.998", "200-0.998"]
