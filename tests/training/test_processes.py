"""Several processes, and processes that end before their time: the real thing, in processes of their own."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

from diffusion_jax import devices, main
from diffusion_jax.runs import metric_log, record
from diffusion_jax.training import checkpoints, checksums

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parent.parent.parent
FLAGS = [
    *("--config=configs/toy2d.py:tiny", "--config.network.mlp.dropout=0.2", "--config.report.tensorboard=False"),
    *(
        "--config.report.every=1",
        "--config.checkpoint.every=25",
        "--config.checkpoint.keep=5",
        "--config.batch_size=32",
    ),
    *("--config.report.samples_every=0", "--config.eval.every=25", "--config.accumulate_steps=2"),
]


def environment(devices):
    flags = os.environ["XLA_FLAGS"].replace("device_count=4", f"device_count={devices}")
    return os.environ | {"XLA_FLAGS": flags}


def command(*arguments):
    return [sys.executable, "-m", "diffusion_jax.main", *arguments]


@contextlib.contextmanager
def started_twice(*arguments, **variables):
    """Start a command as two processes of two devices, with environment variables."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    each = [f"--coordinator_address=127.0.0.1:{port}", "--num_processes=2", "--local_devices=2"]
    with contextlib.ExitStack() as stack:
        started = []
        for i in range(2):
            process = stack.enter_context(
                subprocess.Popen(
                    command(*arguments, *each, f"--process_id={i}"),
                    cwd=ROOT,
                    env=environment(2) | variables,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            started.append(process)
        yield started


def two_processes(*arguments):
    """Run a command as two processes of two devices; their standard outputs."""
    with started_twice(*arguments) as started:
        ends = [process.communicate(timeout=240) for process in started]
    assert [process.returncode for process in started] == [0, 0], ends
    return [
        [json.loads(line) for line in out.splitlines() if line.startswith("{")] for out, _ in ends
    ]  # Gloo prints too


def losses(workdir):
    return {record["step"]: record["loss"] for record in metric_log.read_metrics(workdir) if "loss" in record}


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """50 steps in one process on four devices."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert main.run(["main", "train", *FLAGS, f"--workdir={workdir}", "--config.train_steps=50"]) == 0
    return workdir


def test_two_processes_go_on_where_one_stopped_and_the_other_way_round(one_process, tmp_path, monkeypatch, capsys):
    """50 steps: all in one process; 25 and then 25 in two; 25 in two and then 25 in one, on one device."""
    want = losses(one_process)
    to_two, from_two = tmp_path / "to_two", tmp_path / "from_two"

    shutil.copytree(one_process, to_two)
    shutil.rmtree(to_two / "checkpoints" / "50")
    (to_two / "metrics.jsonl").unlink()
    first, second = two_processes("train", *FLAGS, f"--workdir={to_two}", "--config.train_steps=50")
    assert first[0]["step"] == 50 and not second
    for i in range(2):  # each has summed its own files
        noted = json.loads((to_two / "checkpoints" / "50" / "state" / f"{checksums.OWN}{i}").read_text())
        assert noted and all(name.startswith(f"ocdbt.process_{i}/") for name in noted)

    two_processes("train", *FLAGS, f"--workdir={from_two}", "--config.train_steps=25")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert main.run(["main", "train", *FLAGS, f"--workdir={from_two}", "--config.train_steps=50"]) == 0

    assert sorted(losses(to_two)) == list(range(26, 51)) and sorted(losses(from_two)) == list(range(1, 51))
    for workdir in (to_two, from_two):
        np.testing.assert_allclose(
            *zip(*((loss, want[n]) for n, loss in losses(workdir).items()), strict=True), rtol=1e-5
        )
    heldout = [
        next(r["heldout_loss"] for r in metric_log.read_metrics(w) if "heldout_loss" in r)
        for w in (one_process, from_two)
    ]
    assert heldout[1] == pytest.approx(heldout[0], rel=1e-5)


FAILING = """
import jax
import numpy as np
from diffusion_jax.data.source import Source


def source(split):
    reads = []

    def read(places):
        reads.append(places)
        if jax.process_index() == 1 and len(reads) > 20:
            raise OSError("only this process fails")
        return np.zeros((len(places), 2), np.float32), np.full(len(places), -1, np.int32)

    return Source("failing", (2,), 0, 0, 64, read, on_disk=False)
"""


def test_a_process_that_fails_alone_ends_without_the_others_and_saves_nothing(tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    flags = ["--config.data.name=failing:source", "--config.eval.every=0", "--config.accumulate_steps=1"]
    flags += ["--config.train_steps=60", "--config.checkpoint.every=7", f"--workdir={tmp_path / 'run'}"]
    with started_twice("train", *FLAGS, *flags, PYTHONPATH=str(tmp_path)) as (first, second):
        _, err = second.communicate(timeout=120)
        assert second.returncode == 2 and "error: only this process fails" in err
        first.kill()  # which notices the end of the other a minute later
    kept = checkpoints.steps(tmp_path / "run")
    assert kept and all(step % 7 == 0 for step in kept)  # it failed at another step


def test_samples_of_two_processes_are_those_of_one_in_every_byte(one_process, tmp_path):
    sample = ["sample", f"--workdir={one_process}", "--num_samples=9"]
    assert main.run(["main", *sample, f"--out={tmp_path / 'one.npz'}"]) == 0
    first, second = two_processes(*sample, f"--out={tmp_path / 'two.npz'}")
    assert first[0]["num_samples"] == 9 and not second
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "two.npz") as two:
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])


def test_a_signal_to_the_group_of_a_training_saves_and_the_same_command_goes_on(tmp_path, capsys, monkeypatch):
    """Ctrl-C of a terminal, which its worker processes get as well; then the rest, in this process."""
    (tmp_path / "images").mkdir()
    for i in range(12):
        Image.new("L", (8, 8), 20 * i).save(tmp_path / "images" / f"{i}.png")
    flags = ["--config=digits:tiny", "--config.data.name=folder", f"--config.data.folder.path={tmp_path / 'images'}"]
    flags += ["--config.data.folder.size=8", "--config.data.folder.channels=1", "--config.data.workers=2"]
    flags += ["--config.data.folder.heldout_fraction=0.0", "--config.eval.svm=False", "--config.eval.every=0"]
    flags += ["--config.report.every=1", "--config.report.samples_every=0"]
    flags += ["--config.report.tensorboard=False", "--config.checkpoint.every=100000"]
    workdir = tmp_path / "run"
    process = subprocess.Popen(
        command("train", *flags, "--config.train_steps=100000", f"--workdir={workdir}"),
        cwd=ROOT,
        env=environment(4),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 120
    while not (workdir / "metrics.jsonl").exists() or not losses(workdir):
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and json.loads(out)["preempted"], err
    assert "Traceback" not in err and "leaked" not in err
    with contextlib.suppress(ProcessLookupError):  # which comes once no process of the group is left
        until = time.monotonic() + 60
        while True:
            os.killpg(process.pid, 0)
            assert time.monotonic() < until
            time.sleep(0.05)
    (step,) = checkpoints.steps(workdir)
    lines = record.read(workdir)
    assert [line["event"] for line in lines] == ["start", "end"] and lines[1]["outcome"] == "Preempted"

    monkeypatch.chdir(ROOT)
    more = ["--config.data.workers=0", f"--config.train_steps={step + 1}"]
    assert main.run(["main", "train", *flags, *more, f"--workdir={workdir}"]) == 0
    assert checkpoints.steps(workdir)[-1] == step + 1


BUSY = """
import hashlib, signal
from diffusion_jax import devices
with devices.preemption() as notice:
    signal.raise_signal(signal.SIGINT)
    assert notice(1) == signal.SIGINT
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # minutes of compiled code, without Python's lock
"""


def test_a_second_interrupt_ends_compiled_code_at_once():
    with subprocess.Popen([sys.executable, "-c", BUSY], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(timeout=60) == 130
        finally:
            process.kill()


DRAWING = """
import jax, jax.numpy as jnp, os
from diffusion_jax import devices
long = jax.jit(lambda x: jax.lax.scan(lambda x, _: (jnp.tanh(x @ x), None), x, length=10**6)[0])
with devices.preemption() as notice:
    notice.raising = True
    x = long(jnp.ones((300, 300)))
    print("ready", flush=True)
    try:
        devices.fetch(x)
    except KeyboardInterrupt:
        os._exit(75)
"""


def test_a_signal_is_raised_while_compiled_code_runs():
    """As in a picture of many steps: the state is saved without waiting for its end."""
    with subprocess.Popen([sys.executable, "-c", DRAWING], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(timeout=60) == 75
        finally:
            process.kill()


def test_kills_leave_no_trace():
    """A few of them; `python -m tests.kills` has more."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.kills", "--kills=4", "--every=5"],
        cwd=ROOT,
        env=environment(1),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["equal"] and found["failed_starts"] == 0 and found["kills"] == 4


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_an_error_on_one_line_and_damages_nothing(small_disk):
    flags = [*FLAGS, "--config.train_steps=100", "--config.eval.every=0", "--config.checkpoint.every=5"]
    flags += ["--config.checkpoint.keep=50"]
    done = subprocess.run(
        command("train", *flags, f"--workdir={small_disk / 'run'}"),
        cwd=ROOT,
        env=environment(1),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    kept = checkpoints.steps(small_disk / "run")
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]  # TensorStore prints others
    assert line.startswith(f"error: --workdir={small_disk / 'run'}: ") and line.endswith(f"step {kept[-1]}")
    for step in kept:
        checkpoints.restore_weights(small_disk / "run", step)


# Who this process is.


def slurm(**changes):
    step = {
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "6",
        "SLURM_STEP_TASKS_PER_NODE": "2(x3)",
        "SLURM_PROCID": "3",
        "SLURM_NODEID": "1",
        "SLURM_LOCALID": "1",
    }
    return devices.from_slurm(step | changes)


def test_a_step_of_slurm_gives_the_number_of_this_process():
    assert slurm() == {"num_processes": 6, "process_id": 3, "local_device_ids": []}
    assert devices.from_slurm({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}) is None  # no srun
    assert slurm(SLURM_STEP_NUM_TASKS="1") is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x6)", "SLURM_LOCALID": "0", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, [0, 1, 2, 3]),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x6)", "SLURM_LOCALID": "0", "SLURM_GPUS_ON_NODE": "8"}, list(range(8))),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, [1]),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, [2, 3]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, [0]),  # bound to its own, which it counts from 0
        ({"SLURM_STEP_TASKS_PER_NODE": "2,1,3", "SLURM_LOCALID": "0", "CUDA_VISIBLE_DEVICES": "0,1"}, [0, 1]),
    ],
)
def test_the_gpus_of_a_node_are_divided_among_its_tasks(changes, expected):
    assert slurm(**changes)["local_device_ids"] == expected


def test_processes_that_do_not_fit_are_refused(capsys, tmp_path):
    for flags, said in (
        (["--num_processes=2"], "--coordinator_address"),
        (
            ["--coordinator_address=127.0.0.1:1", "--num_processes=2", "--process_id=2"],
            "--process_id=2",
        ),
        (
            ["--local_devices=8"],
            "--local_devices=8",
        ),
    ):
        assert main.run(["main", "train", *FLAGS, f"--workdir={tmp_path}", *flags]) == 2
        assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_rows_of_a_batch_are_divided_among_processes(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert devices.local_rows(12) == slice(4, 8)
    with pytest.raises(ValueError, match="batch_size=8"):
        devices.local_rows(8)
