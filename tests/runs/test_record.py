"""The record of the processes that trained a run."""

import datetime
import subprocess

import jax
import pytest

from diffusion_jax.runs import record


def test_start_and_end_of_each_process(tmp_path):
    with record.recording(tmp_path / "run", 0) as session:
        session.step = 7
    with pytest.raises(FloatingPointError), record.recording(tmp_path / "run", 7) as session:
        session.step = 9
        raise FloatingPointError
    with (tmp_path / "run" / record.RECORD).open("a") as file:
        file.write('{"event": "sta')
    lines = record.read(tmp_path / "run")
    assert [(line["event"], line["step"]) for line in lines] == [("start", 0), ("end", 7), ("start", 7), ("end", 9)]
    assert [line.get("outcome") for line in lines[1::2]] == ["finished", "FloatingPointError"]
    times = [datetime.datetime.fromisoformat(line["time"]) for line in lines]
    assert times == sorted(times) and times[0].tzinfo
    assert (
        lines[0]["devices"].startswith(f"{jax.device_count()} x cpu") and lines[0]["versions"]["jax"] == jax.__version__
    )
    assert lines[1]["peak_memory_bytes"]["host"] > 1e8
    assert record.read(tmp_path / "none") == []


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with record.recording(tmp_path, 0):
        pass
    assert record.read(tmp_path) == []


def test_commit_of_the_code(tmp_path):
    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True)

    assert record.source_code(tmp_path) == {"commit": None, "dirty": None}
    git("init")
    package = tmp_path / "package"
    package.mkdir()
    (package / "code.py").write_text("1")
    assert record.source_code(package)["commit"] is None  # in a repository, but not of it
    git("add", "-A")
    git("commit", "-m", "first")
    assert len(record.source_code(package)["commit"]) == 40 and record.source_code(package)["dirty"] is False
    (package / "code.py").write_text("2")
    assert record.source_code(package)["dirty"] is True
    assert record.source_code(tmp_path / "nowhere") == {"commit": None, "dirty": None}
