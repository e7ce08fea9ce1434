"""The program around a command: the compile cache, the log, platforms."""

import logging
import os
import sys
import threading

import jax
import pytest

from diffusion_jax import devices
from diffusion_jax.cli import environment


def test_compiled_programs_are_kept_unless_another_place_is_chosen(tmp_path, monkeypatch):
    name = "JAX_COMPILATION_CACHE_DIR"
    monkeypatch.setenv(name, "chosen")
    monkeypatch.setattr(environment, "COMPILED", tmp_path / "home" / "compiled")
    environment.keep_compiled()
    assert os.environ[name] == "chosen" and not (tmp_path / "home").exists()
    monkeypatch.delenv(name)
    environment.keep_compiled()
    assert os.environ[name] == str(tmp_path / "home" / "compiled") and (tmp_path / "home" / "compiled").is_dir()
    monkeypatch.delenv(name)
    (tmp_path / "file").touch()
    monkeypatch.setattr(environment, "COMPILED", tmp_path / "file" / "compiled")
    environment.keep_compiled()
    assert name not in os.environ


def test_the_log_goes_to_standard_error_once_and_only_within_a_command(capsys):
    log = logging.getLogger("diffusion_jax")
    before = list(log.handlers), log.level, log.propagate
    for _ in range(2):
        with environment.logging_to_stderr():
            logging.getLogger("diffusion_jax.somewhere").info("a line")
            logging.getLogger("elsewhere").info("another line")
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert (list(log.handlers), log.level, log.propagate) == before


def test_closed_streams_go_nowhere(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    environment.prepare_process()
    for stream in (sys.stdout, sys.stderr):
        assert not stream.isatty() and stream.write("x") == 1
        stream.close()


@pytest.mark.parametrize(
    ("set_by_user", "devices"),
    [
        ({}, 1),
        ({"JAX_NUM_CPU_DEVICES": "1"}, 1),
        ({"JAX_NUM_CPU_DEVICES": "3"}, 3),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}, 2),
        ({"JAX_NUM_CPU_DEVICES": "many"}, 1),
    ],
)
def test_several_cpu_devices_have_threads_to_spare(set_by_user, devices, monkeypatch):
    for name in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS", "PJRT_NPROC"):
        monkeypatch.delenv(name, raising=False)
    for name, value in set_by_user.items():
        monkeypatch.setenv(name, value)
    environment.set_threads()
    threads = int(os.environ.get("PJRT_NPROC", 0))
    assert threads == 0 if devices == 1 else threads > devices
    monkeypatch.setenv("PJRT_NPROC", "7")
    for needed in (0, 8):
        environment.set_threads(needed)
        assert os.environ["PJRT_NPROC"] == "7"
    monkeypatch.delenv("PJRT_NPROC")
    environment.set_threads(8)
    assert os.environ["PJRT_NPROC"] == "8"


@pytest.mark.parametrize("error", [RuntimeError("Unable to initialize backend"), AssertionError()])
def test_a_platform_that_jax_cannot_use_is_named(error, monkeypatch):
    def devices():
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(ValueError, match="JAX_PLATFORMS=cuda"):
        environment.check_platform()
    monkeypatch.delenv("JAX_PLATFORMS")
    environment.check_platform()


def test_a_process_starts_again_with_huge_pages_once(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(environment, "HUGE_PAGES", tmp_path / "enabled")
    monkeypatch.setattr(environment.os, "execv", lambda path, argv: started.append((path, argv)))
    monkeypatch.setattr(sys, "argv", ["main.py", "train"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "diffusion_jax.main", "train"])
    monkeypatch.delenv("GLIBC_TUNABLES")
    environment.use_huge_pages()  # no such file: another system
    (tmp_path / "enabled").write_text("[always] madvise never\n")
    environment.use_huge_pages()
    assert not started and "GLIBC_TUNABLES" not in os.environ
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    with monkeypatch.context() as notebook:
        notebook.setattr(sys, "orig_argv", ["python", "-m", "ipykernel_launcher", "-f", "kernel.json"])
        environment.use_huge_pages()
    assert not started
    for _ in range(2):
        environment.use_huge_pages()
    assert started == [(sys.executable, ["python", "-m", "diffusion_jax.main", "train"])]
    assert "hugetlb" in os.environ["GLIBC_TUNABLES"]


def test_threads_that_wait_for_compiled_code_are_found():
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait, name=devices.WAITING)
    assert not environment.waits_for_compiled_code()
    thread.start()
    assert environment.waits_for_compiled_code()
    ended.set()
    thread.join()
    assert not environment.waits_for_compiled_code()
