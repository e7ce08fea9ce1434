"""A folder where a file is to be written, a file where a folder is needed: one line with the path, before any work."""

import json
import os
import shutil

import pytest

from diffusion_jax import files
from diffusion_jax.analysis import sweeps

TRAIN = ["train", "--config=digits:tiny", "--config.report.tensorboard=True"]
INSIDE = "evaluation/0-0.9"
CASES = [
    *((TRAIN, f"{name}/", "new") for name in ("metrics.jsonl", "record.jsonl", ".lock", "curves.png")),
    (TRAIN, "loss_by_time.png/", "new"),
    *((TRAIN, name, "new") for name in ("checkpoints", "images", "tensorboard")),
    (["evaluate", "--num_samples=0"], "evaluation", "run"),
    (["evaluate", "--num_samples=0"], INSIDE, "run"),
    (["evaluate", "--num_samples=0"], f"{INSIDE}/figures.json/", "run"),
    (["evaluate", "--likelihood=vlb", "--num_samples=0"], f"{INSIDE}/vlb.npz/", "run"),
    (["show"], f"{INSIDE}/progressive.npz/", "run"),
    (["frontier", "--steps=2", "--num_samples=4"], f"{INSIDE}/frontier", "run"),
    (["frontier", "--steps=2", "--num_samples=4"], f"{INSIDE}/frontier_grey28.md/", "run"),
    (["frontier", "--steps=2", "--num_samples=4"], "evaluation/stats_pixels.npz/", "run"),
    (["represent"], f"{INSIDE}/figures.json/", "run"),
    (["report"], "report.html/", "run"),
    (["report"], "values.png/", "run"),
    (["sample", "--out={run}/s.npz"], "s.png/", "run"),
    (["restore", "--out={run}/s.npz", "--format=pdf"], "s.pdf/", "run"),
    (["encode", "--out={run}/s.npz", "--format=svg"], "s.svg/", "run"),
    (["detect", "--odd=classes", "--out={run}/s.npz", "--format=svg"], "s.svg/", "run"),
    (["decompress", "--file=x", "--progressive=2", "--out={run}/s.npz", "--format=pdf"], "s.pdf/", "run"),
    (["sweep", "--sweep={sweep}"], "sweep.json/", "new"),
    (["sweep", "--sweep={sweep}"], "a/seed1", "swept"),
    (["sweep", "--sweep={sweep}"], "a/seed1/result.json/", "swept"),
    (["compare"], "compare.md/", "sweep"),
    (["export", "--to=diffusers", "--path={run}/file/x"], "file", "run"),
    (["import-inception", "--path={run}/none.pb", "--out={run}/file/x.npz"], "file", "run"),
]  # fmt: skip
SWEEP = """
def get_sweep(variant=""):
    return {"config": "digits:tiny", "seeds": (1,), "cells": {"a": {"prediction.target": "v"}}}
"""


def obstruct(place, name):
    """Make a folder (NAME/) or a file (NAME)."""
    path = place / name.rstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if name.endswith("/") else path.write_text("")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, untrained):
    path = tmp_path_factory.mktemp("untrained")
    untrained(path)
    (path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 0.5}\n')
    return path


@pytest.mark.parametrize(("words", "name", "where"), CASES, ids=[f"{words[0]} {name}" for words, name, _ in CASES])
def test_files_in_the_way_are_named(words, name, where, run, tmp_path, command):
    (tmp_path / "sweep.py").write_text(SWEEP)
    place = tmp_path / "work"
    place.mkdir()
    if where == "run":
        shutil.copytree(run, place, dirs_exist_ok=True)
    elif where == "sweep":
        (place / "sweep.json").write_text(json.dumps({"sweep": "x", "runs": {}}))
    elif where == "swept":
        sweeps.begin(str(tmp_path / "sweep.py"), str(place))
    path = obstruct(place, name)
    before = sorted(place.rglob("*"))
    flags = [] if words[0] == "import-inception" else [f"--workdir={place}"]
    done = command(*(word.format(run=place, sweep=tmp_path / "sweep.py") for word in words), *flags)
    assert done.code == 2 and not done.out, done
    assert [line for line in done.err if line.startswith("error: ")] == done.err[-1:]
    assert str(path) in done.err[-1] and "Errno" not in done.err[-1] and not any("compil" in line for line in done.err)
    assert [file for file in place.rglob("*") if file not in before and file.is_file()] == []


@pytest.mark.parametrize("name", ["metrics.jsonl", "record.jsonl"])
def test_a_log_that_cannot_be_continued_is_named(name, tmp_path, command, monkeypatch):
    access = os.access
    (tmp_path / name).write_text("")
    monkeypatch.setattr(files.os, "access", lambda path, mode: not str(path).endswith(name) and access(path, mode))
    done = command(*TRAIN, f"--workdir={tmp_path}")
    assert done.code == 2 and str(tmp_path / name) in done.err[-1]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "words", [["evaluate", "--num_samples=0"], ["show"], ["sample", "--out={run}/s.npz"], ["report"]]
)
def test_a_run_directory_that_is_read_only_is_named(words, run, command, monkeypatch):
    monkeypatch.setattr(files.os, "access", lambda path, mode: not str(path).startswith(str(run)))
    done = command(*(word.format(run=run) for word in words), f"--workdir={run}")
    assert done.code == 2 and str(run) in done.err[-1] and "Errno" not in done.err[-1]
