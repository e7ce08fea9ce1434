"""The launchers do as launch/README.md says, with stand-ins for what they start; launch/test_slurm.sh has SLURM."""

import importlib.util
import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
import yaml
from jax import ShapeDtypeStruct

from diffusion_jax import cli, devices
from diffusion_jax.analysis import sweeps

ROOT = pathlib.Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
GRID = {
    "config": str(ROOT / "configs/toy2d.py") + ":tiny",
    "seeds": (0, 1),
    "cells": {"eps": {"prediction.target": "eps"}},
}


def script(name):
    """A Python file of launch/ as a module."""
    spec = importlib.util.spec_from_file_location(f"launch_{name}", LAUNCH / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stand_in(path, text):
    """An executable file in Bash."""
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
    return path


# scaling.py


def test_documentation_shows_the_tables_of_scaling():
    assert script("scaling").main([]) in (ROOT / "docs" / "results" / "scaling.md").read_text()


def test_scaling_computes_the_share_divided_by_fsdp():
    scaling = script("scaling")
    shapes = [(64, 64), (31, 64), (31, 33), (4, 4), (1024,), ()]
    tree = [ShapeDtypeStruct(shape, "float32") for shape in shapes]
    n = jax.device_count()
    part = scaling.divided(tree, n)
    assert scaling.size(tree) - part + part / n == devices.device_bytes(tree, "fsdp")


def test_scaling_of_an_exchange():
    scaling = script("scaling")
    machine = scaling.Machine("m", 1e12, 100.0, 50.0, 2)
    assert scaling.wire(4, 1000) == 1500
    assert scaling.exchange(2, 1000, machine, 0.5, 0.25) == 1000 / 50 + 0.5  # inside a node
    assert scaling.exchange(4, 1000, machine, 0.5, 0.25) == 1500 / 25 + 1.0  # between nodes
    assert scaling.efficiency(3.0, 1.0) == (0.75, 1.0)
    assert scaling.efficiency(3.0, 5.0) == (0.375, 0.5)


# local.sh


@pytest.fixture
def local(tmp_path):
    """`local(*arguments)`: launch/local.sh started with a stand-in for Python, on a machine with GPUs 0 to 3."""
    python = stand_in(
        tmp_path / "python",
        f"""[ "$1" = -c ] && exec {sys.executable} "$@"
        shift 2
        trap 'exit 75' TERM
        echo "$CUDA_VISIBLE_DEVICES $*"
        case $1 in
            die) [[ $* != *process_id=1 ]] || exit 3 ;;
            wait) ;;
            *) exit 0 ;;
        esac
        sleep 30 >/dev/null 2>&1 63>&- & wait $!""",
    )
    stand_in(tmp_path / "nvidia-smi", "seq 0 3")
    env = os.environ | {"PYTHON": str(python), "PATH": f"{tmp_path}:{os.environ['PATH']}", "JAX_PLATFORMS": ""}
    env.pop("CUDA_VISIBLE_DEVICES", None)
    options = {"env": env, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return lambda *arguments: subprocess.Popen(["bash", str(LAUNCH / "local.sh"), *arguments], **options)


def test_local_sets_the_place_and_gpus_of_each_process(local):
    process = local("-n", "2", "train", "--workdir=a b")
    out, err = process.communicate()
    assert process.returncode == 0
    (first,), (second,) = out.splitlines(), err.splitlines()
    gpus, command, *flags = first.split(" ", 2)
    assert (gpus, command) == ("0,1", "train")
    assert flags[0].startswith("--workdir=a b --coordinator_address=127.0.0.1:")
    assert first.endswith(" --num_processes=2 --process_id=0")
    assert second == "[1] " + first.replace("0,1 train", "2,3 train").replace("process_id=0", "process_id=1")


def test_local_kills_the_others_when_one_dies(local):
    process = local("-n", "4", "--", "die")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 3
    assert "a process ended with exit code 3; the others are killed" in err


def test_local_passes_sigterm_on(local):
    process = local("-n", "2", "wait")
    assert "--process_id=0" in process.stdout.readline() and "--process_id=1" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 75


def test_local_refuses_bad_arguments(local):
    for arguments, what in ((("train",), "usage"), (("-n", "3", "train"), "4 GPUs cannot be divided among -n 3")):
        process = local(*arguments)
        assert what in process.communicate()[1] and process.returncode == 2


# slurm.sbatch


@pytest.mark.parametrize(
    ("code", "state", "requeued"),
    [
        (0, "RUNNING", False),
        (2, "RUNNING", False),
        (75, "RUNNING", True),
        (143, "RUNNING", True),
        (75, "COMPLETING", False),
    ],
)
def test_slurm_requeues_a_saved_run_unless_it_was_cancelled(tmp_path, code, state, requeued):
    stand_in(tmp_path / "srun", f'echo "srun $*"; exit {code}')
    stand_in(tmp_path / "squeue", f"echo {state}")
    stand_in(tmp_path / "scontrol", 'echo "scontrol $*"')
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "PYTHON": "py"}
    done = subprocess.run(
        ["bash", LAUNCH / "slurm.sbatch", "train", "--x=a b"], env=env, capture_output=True, text=True
    )
    assert done.returncode == code
    assert "py -m diffusion_jax.main train --x=a b" in done.stdout
    assert ("scontrol requeue 7" in done.stdout) == requeued


# tpu_pod.sh and k8s_jobset.yaml


def test_tpu_pod_prints_its_commands():
    env = os.environ | {"NAME": "n", "ZONE": "z", "TYPE": "v4-32", "VERSION": "v"}
    for words, what in (
        (["create"], "tpu-vm create n --accelerator-type=v4-32 --version=v --zone=z"),
        (["run", "train", "--config=c"], "diffusion_jax.main\\ train\\ --config=c"),
        (["shell", "df /runs"], "--worker=all --command=df\\ /runs"),
        (["stop"], "pkill\\ -TERM"),
        (["delete"], "tpu-vm delete n"),
    ):
        argv = ["bash", LAUNCH / "tpu_pod.sh", "--dry-run", *words]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True, cwd=ROOT)
        assert what in done.stdout
        assert all(line.startswith("gcloud compute tpus tpu-vm ") for line in done.stdout.splitlines())


def test_jobset_agrees_with_itself():
    jobset = yaml.safe_load((LAUNCH / "k8s_jobset.yaml").read_text())
    spec = jobset["spec"]
    (job,) = spec["replicatedJobs"]
    inner = job["template"]["spec"]
    (container,) = inner["template"]["spec"]["containers"]
    env = {each["name"]: each["value"] for each in container["env"]}
    assert inner["completions"] == inner["parallelism"] == int(env["NUM_PROCESSES"])
    first = f"{jobset['metadata']['name']}-{job['name']}-0-0.{spec['network']['subdomain']}"
    assert env["COORDINATOR_ADDRESS"] == f"{first}:{container['ports'][0]['containerPort']}"
    assert f"--local_devices={container['resources']['limits']['nvidia.com/gpu']}" in container["command"]
    on_exit = inner["podFailurePolicy"]["rules"][0]
    assert on_exit["action"] == "FailJob" and on_exit["onExitCodes"]["values"] == [75]
    assert on_exit["onExitCodes"]["containerName"] == container["name"]
    (rule,) = spec["failurePolicy"]["rules"]
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"


# sweep.py


@pytest.fixture
def begun(tmp_path, monkeypatch, capsys):
    """`begun(way, *flags) -> (exit code, standard output)` of launch/sweep.py, for GRID in tmp_path/runs."""
    (tmp_path / "grid.py").write_text(f"def get_sweep(variant=''):\n    return {GRID!r}\n")
    module = script("sweep")

    def begin(way, *flags):
        argv = ["sweep.py", way, f"--workdir={tmp_path / 'runs'}", *flags]
        monkeypatch.setattr(sys, "argv", argv + ([] if way == "run" else [f"--sweep={tmp_path / 'grid.py'}"]))
        before = signal.getsignal(signal.SIGTERM)
        try:
            return module.main(), capsys.readouterr().out
        finally:
            signal.signal(signal.SIGTERM, before)

    return begin


def result(status):
    return {"status": status, "reason": "", "figures": {}}


def test_sweep_finds_its_grid_as_a_script(tmp_path):
    sweep = [
        "print",
        "--sweep=configs/sweeps/ddpm_table2.py:digits",
        f"--workdir={tmp_path / 'sweep'}",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    said = subprocess.run(
        [sys.executable, LAUNCH / "sweep.py", *sweep], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.count("launch/sweep.py run ") > 5


def test_sweep_prints_the_missing_runs_and_runs_them(begun, tmp_path, monkeypatch):
    code, out = begun("print")
    assert code == 0 and [line.split()[2:4] for line in out.splitlines()] == [
        ["run", "eps/seed0"],
        ["run", "eps/seed1"],
    ]
    carried = []

    def carry_out(cell, place, *_):
        carried.append(cell)
        place.mkdir(parents=True)
        return result("finished")

    monkeypatch.setattr(sweeps, "carry_out", carry_out)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    assert begun("run")[0] == 0
    (cell,) = carried
    assert cell.name == "eps/seed1" and "--config.seed=1" in cell.train
    assert json.loads((tmp_path / "runs/eps/seed1/result.json").read_text())["status"] == "finished"
    assert len(begun("print")[1].splitlines()) == 1
    with pytest.raises(ValueError, match=r"other is not a run of .*the first of them is eps/seed0"):
        begun("run", "other")


def test_sweep_run_that_sigterm_ended_is_to_be_tried_again(begun, tmp_path, monkeypatch):
    def carry_out(*_):
        signal.raise_signal(signal.SIGTERM)
        return result("failed")

    begun("print")
    monkeypatch.setattr(os, "killpg", lambda *_: None)
    monkeypatch.setattr(sweeps, "carry_out", carry_out)
    assert begun("run", "eps/seed0")[0] == 75
    assert not (tmp_path / "runs/eps/seed0/result.json").exists()


def test_sweep_submits_an_array_and_queues(begun, tmp_path, monkeypatch):
    stand_in(tmp_path / "sbatch", f'echo "$PYTHON $*" >{tmp_path}/submitted')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert begun("slurm", "--gpus-per-node=1")[0] == 0
    submitted = (tmp_path / "submitted").read_text()
    assert submitted.startswith(f"{sys.executable} --array=0,1 ") and " --gpus-per-node=1 " in submitted
    assert submitted.endswith(f"launch/slurm.sbatch {LAUNCH}/sweep.py run --workdir={tmp_path / 'runs'}\n")


def test_sweep_queue_ends_all_with_sigterm(tmp_path, monkeypatch):
    module = script("sweep")
    waits = stand_in(
        tmp_path / "waits", f"trap 'exit 75' TERM; touch {tmp_path}/$1; sleep 30 >/dev/null 2>&1 63>&- & wait $!"
    )
    monkeypatch.setattr(module, "command", lambda _, name: [str(waits), name])
    monkeypatch.setattr(module, "visible_gpus", list)

    def end():
        deadline = time.monotonic() + 60
        while not (tmp_path / "b").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        if (tmp_path / "b").exists():  # the queue listens
            os.kill(os.getpid(), signal.SIGTERM)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    thread = threading.Thread(target=end)
    thread.start()
    try:
        assert module.work_off(tmp_path, ["a", "b", "c"], 2) == 75
        assert not (tmp_path / "c").exists()
    finally:
        thread.join()
        for number, handler in before.items():
            signal.signal(number, handler)


# compare_peers.py

PEER = """
import json, sys
options = json.loads(sys.argv[1])
print("noise on standard output")
print(json.dumps({"parameters": 7, "first": 0.5, "version": "1"}), flush=True)
for line in sys.stdin:
    each = options["each"].pop(0) if int(line) > 1 else 99  # a run to warm up
    print(json.dumps({"seconds": int(line) * each, "peak_bytes": 3}), flush=True)
"""


def test_ratios_are_of_timings_that_follow_one_another_in_images_a_second(tmp_path):
    peer = tmp_path / "peer.py"
    peer.write_text(PEER)
    command = [sys.executable, str(peer)]
    common = {"times": 4, "whole": False, "apart": False, "devices": 1, "on": "cpu"}
    mine, other = {"batch": 8, "each": [1.0, 2.0, 1.0]}, {"batch": 16, "each": [3.0, 4.0, 8.0]}
    found = script("compare_peers").compare(command, command, common | mine, common | other, repeats=3)
    assert found["ratios"] == [1.0, 1.5, 4.0] and found["ratio"] == 1.5
    assert (found["ours_seconds"], found["peer_seconds"]) == (1.0, 4.0)
    assert found["parameters"] == [7, 7] and found["peak_bytes"] == [3, 3]


def test_each_side_takes_the_batch_that_is_best_for_it(tmp_path):
    peer = tmp_path / "peer.py"
    peer.write_text(PEER.replace('["each"].pop(0)', '["each"][str(options["batch"])]'))
    options = {
        "times": 2,
        "whole": False,
        "apart": False,
        "devices": 1,
        "on": "cpu",
        "each": {"8": 1.0, "16": 1.5},
    }  # 32 ends with an error
    compare = script("compare_peers")
    gone = PEER.replace("for line in sys.stdin:", "sys.exit(3)\nfor line in sys.stdin:")  # ready, and then dead
    with pytest.raises(RuntimeError, match="ended with 3"):
        compare.compare(*[[sys.executable, "-c", gone]] * 2, options | {"batch": 8}, options | {"batch": 8}, repeats=1)
    with pytest.raises(RuntimeError, match="ended with 1"):
        compare.Side([sys.executable, "-c", "raise SystemExit(1)"], options)
    assert compare.best_batch([sys.executable, str(peer)], options, [8, 16]) == 16
    assert compare.best_batch([sys.executable, str(peer)], options, [8]) == 8


def test_our_side_does_the_work_it_is_given(monkeypatch):
    """Train, call and sample the shrunk digits, as a process would, here."""
    compare = script("compare_peers")
    monkeypatch.setitem(sys.modules, "configs.tiny_digits", type(sys)("tiny_digits"))
    from configs import digits

    sys.modules["configs.tiny_digits"].get_config = lambda variant: digits.get_config("tiny")
    for work in ("train", "call", "sample"):
        options = {"work": work, "recipe": "tiny_digits", "batch": 8, "dtype": "float32", "devices": jax.device_count()}
        run, parameters = compare.ours(options)
        run(2)
        assert parameters > 1000
    with pytest.raises(ValueError, match=r"\b9\b"):
        compare.ours(options | {"batch": 9, "devices": 4})


# gpu_figures.sh


def test_figures_of_a_gpu_continue_where_they_stopped(tmp_path):
    figures, ran = script("gpu_figures"), []

    def item(name, result, least=0.0):
        def run(left):
            ran.append(name)
            return dict(result)

        return figures.Item(name, least, run)

    items = [
        item("first", {"status": "done"}),
        item("long", {"status": "partial"}),
        item("absent", {"status": "missing", "reason": "no recipe"}),
        item("later", {"status": "done"}, least=1e9),
    ]
    path = tmp_path / "a.json"
    assert figures.run_part(items, path, 60) == figures.RETRY and ran == ["first", "long", "absent"]
    assert json.loads(path.read_text())["absent"]["reason"] == "no recipe"
    items = [item(name, {"status": "done"}) for name in ("first", "long", "later")]
    items.append(item("absent", {"status": "failed"}))
    assert figures.run_part(items, path, 60) == 1 and ran[3:] == ["long", "later", "absent"]
    assert figures.run_part([item("absent", {"status": "missing"})], path, 60) == 0


def test_figures_of_a_gpu_have_a_status():
    figures = script("gpu_figures")
    for code, status in ((0, "done"), (2, "missing"), (75, "partial"), (1, "failed")):
        argv = [sys.executable, "-c", f"import sys; print('x\\n{{\"k\": 1}}'); sys.exit({code})"]
        result = figures.command(argv, 60)
        assert result["status"] == status and (code or result["figures"] == {"k": 1})
    end = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(75)); time.sleep(60)"
    started = time.monotonic()
    figures.GRACE = 20.0
    assert figures.command([sys.executable, "-c", end], 21)["status"] == "partial" and time.monotonic() - started < 20


def test_figures_of_a_gpu_try_every_command(tmp_path):
    figures = script("gpu_figures")
    args = figures.argparse.Namespace(out=str(tmp_path), data="data", peers_python="python", tiny=True)
    tried = {item.name.split(",")[0] for item in figures.part_f(args)}
    assert tried == set(cli.commands())
    assert set(figures.MODES) == set(devices.sharding.MODES)
    for part in figures.PARTS.values():
        names = [item.name for item in part(args)]
        assert names and len(set(names)) == len(names)


def test_summary_of_a_gpu_has_a_row_for_each_result(tmp_path):
    figures = script("gpu_figures")
    found = {"ours_seconds": 0.0377, "peer_seconds": 0.1155, "ratio": 3.06, "ratios": [2.74, 3.06, 3.14]}
    found |= {"peak_bytes": [6.65e9, 11.9e9], "versions": ["jax 0", "torch 1"]}
    alone = found | {"peer_seconds": None, "ratios": [], "peak_bytes": [None]}
    parts = {
        "a": {"batch 256, eager": {"status": "done", "figures": {"train diffusers:eager": found}}},
        "b": {"batch 64, eager": {"status": "done", "figures": {"train256 none": alone}}},
        "d": {"fashion_vlb: bound": {"status": "missing", "reason": "no checkpoint", "seconds": 1.0}},
        "f": {"sample": {"status": "done"}, "encode": {"status": "failed", "reason": "why"}},
        "g": {
            "batch 8": {
                "figures": {"step_milliseconds": 2.0, "kernel_milliseconds": {"sum": 1.0}, "kernels": {"sum": 3}}
            }
        },
    }
    for name, results in parts.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(results))
    text = figures.summary(tmp_path)
    for row in (
        "37.7 ms | 115.5 ms | 3.06 (2.74–3.14) | 6.65 GB, 11.90 GB",
        "no checkpoint",
        "- encode: why",
        "| sum | 1.00 | 3 |",
    ):
        assert row in text
    assert (
        figures.kind("sm90_xmma_fprop_implicit_gemm") == "convolution" and figures.kind("nvjet_hsh") == "matrix product"
    )


# parity.py


def test_parity_compares_each_sampler_once_per_setting():
    parity = script("parity")
    cases = [*parity.diffusers_cases(), *parity.k_cases(), *parity.known_cases()]
    names = [(name, software) for name, software, *_ in cases]
    assert len(set(names)) == len(names) > 40
    x = np.linspace(-2, 2, 9)
    np.testing.assert_allclose(parity.model(x, 5.0, np), parity.model(jax.numpy.asarray(x), 5.0, jax.numpy), rtol=1e-5)
    assert parity.difference(np.array([1.0, 2.5]), np.array([1.0, 2.0])) == 0.25


# test.sh


def test_canary_reports_only_a_wrong_result():
    spec = importlib.util.spec_from_file_location("canary", ROOT / "tests" / "canary.py")
    canary = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(canary)
    table = canary.computations()
    assert list(canary.wrong(table)) == []
    compute, expected = table["numpy cos"]
    table["numpy cos"] = compute, np.nextafter(expected, 2)
    assert list(canary.wrong(table)) == ["numpy cos"]


def run_test_sh(tmp_path, *words, seen="", codes=(0, 0)):
    """Run test.sh with stand-ins for its tools; return the process and the calls of pytest."""
    (tmp_path / "bin").mkdir()
    for name in ("ruff", "mypy"):
        stand_in(tmp_path / "bin" / name, "exit 0")
    stand_in(
        tmp_path / "bin" / "python",
        f"""case "$*" in
            *canary.py*) [ -z "{seen}" ] || echo "{seen}" >"$2"; exec sleep 30 ;;
            *pytest*) sleep 0.3; echo "$*" >>{tmp_path}/ran
                case "$*" in *--last-failed*) exit {codes[1]} ;; *) exit {codes[0]} ;; esac ;;
        esac""",
    )
    (tmp_path / "installed").write_text(
        subprocess.run(["cksum", "setup.py"], cwd=ROOT, capture_output=True, text=True).stdout
    )
    env = os.environ | {"VENV": str(tmp_path)}
    done = subprocess.run(["bash", LAUNCH / "test.sh", *words], env=env, capture_output=True, text=True)
    return done, (tmp_path / "ran").read_text().splitlines()


@pytest.mark.parametrize(
    ("words", "ends"), [((), "-m not slow"), (("--all",), "-reorder"), (("tests/x",), "reorder tests/x")]
)
def test_slow_tests_run_on_request(words, ends, tmp_path):
    done, ran = run_test_sh(tmp_path, *words)
    assert done.returncode == 0 and len(ran) == 1 and ran[0].endswith(ends)


@pytest.mark.parametrize(
    ("seen", "codes", "code", "runs"),
    [("", (1, 0), 1, 1), ("10:00 wrong", (1, 0), 0, 2), ("10:00 wrong", (1, 1), 1, 2), ("10:00 wrong", (0, 9), 0, 1)],
)
def test_failed_tests_run_again_only_if_the_canary_saw_wrong_arithmetic(seen, codes, code, runs, tmp_path):
    done, ran = run_test_sh(tmp_path, "-k", "x", seen=seen, codes=codes)
    assert done.returncode == code, done.stderr
    assert len(ran) == runs and all(line.endswith("-k x") for line in ran)
    assert ("canary" in done.stdout) == bool(seen)


def test_baselines_of_made_images(tmp_path):
    baselines = runpy.run_path(str(ROOT / "launch" / "baselines.py"))
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (16, 28, 28, 1), np.uint8)
    bits = baselines["code_lengths"](np.zeros_like(noise), noise)
    assert all(bits[name] >= 8 for name in bits if name != "a histogram per pixel")  # nothing compresses noise
    # add one: a level that was never seen costs log2(16 + 256) bits, black log2((16 + 256) / 17)
    share = (noise == 0).mean()
    expected = np.log2(272) - share * np.log2(17)
    np.testing.assert_allclose(bits["a histogram per pixel"], expected, rtol=1e-12)
    blank = baselines["code_lengths"](np.zeros_like(noise), np.zeros_like(noise))
    assert max(bits for name, bits in blank.items() if name != "a histogram per pixel") < 0.2
    train = np.clip(rng.normal(128, 10, (400, 3, 3, 1)), 0, 255).astype(np.uint8)
    train[:, 1] = train[:, 0]  # rows that are equal stay equal
    drawn = baselines["gaussian"](train, 4000, rng).astype(float)
    error = drawn.std(0) / np.sqrt(4000)
    assert (np.abs(drawn.mean(0) - train.mean(0)) < 4 * error).all()
    assert np.abs(drawn[:, 0] - drawn[:, 1]).max() <= 1
