"""Sweeps: grids are checked before they run, finished runs are kept, failures have a status and a reason."""

import csv
import importlib
import json
import math
import pathlib
import sys

import pytest

from diffusion_jax import __version__, files, main
from diffusion_jax import config as configs
from diffusion_jax.analysis import comparison, sweeps
from diffusion_jax.cli import evaluate
from diffusion_jax.runs import metric_log
from diffusion_jax.training import loop

ROOT = pathlib.Path(__file__).parents[2]
SWEEPS = sorted(
    path.stem for path in (ROOT / "configs/sweeps").glob("*.py") if path.stem not in ("__init__", "defaults")
)
TOY = {
    "config": "configs/toy2d.py:tiny",
    "seeds": (0, 1),
    "flags": {"report.samples_every": 0, "report.tensorboard": False, "eval.every": 1},
    "cells": {"eps": {"prediction.target": "eps"}, "v": {"prediction.target": "v", "loss.name": "snr"}},
}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def written(tmp_path, **changes):
    """A sweep file in tmp_path: TOY with changes."""
    path = tmp_path / "grid.py"
    path.write_text(f"def get_sweep(variant=''):\n    return {TOY | changes!r}\n")
    return path


def run(capsys, *argv):
    """Exit code, standard output as lines, standard error as lines."""
    code = main.run(["main", *map(str, argv)])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err.splitlines()


@pytest.fixture
def commands(monkeypatch):
    """Replace the child processes; `ran` lists the commands, `answers[(cell/seed, command)]` replaces an outcome."""
    ran, answers = [], {}

    def execute(argv, path, env):
        command, place = argv[3], path.parent
        name = "/".join(place.parts[-2:])
        ran.append((name, command))
        seed = int(name[-1])
        records = [{"step": 1, "loss": 1.0, "heldout_loss": 1.0, "skipped": 0.0}]
        records += [{"step": 2, "loss": 0.5, "heldout_loss": 0.5, "skipped": 0.0}]
        (place / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        figures = (
            {"step": 2, "loss": 0.5} if command == "train" else {"step": 2, "ema": "0.9", "heldout_loss": 1 + seed}
        )
        return answers.get((name, command), sweeps.Outcome(0, figures, ""))

    monkeypatch.setattr(sweeps, "execute", execute)
    execute.ran, execute.answers = ran, answers
    return execute


# Child processes.


def test_cells_run_as_child_processes_and_one_may_die(tmp_path, capsys):
    """Two real cells; one kills its own process."""
    cells = {"eps": {}, "dies": {"data.toy2d.kind": "moons"}}
    file, directory = written(tmp_path, cells=cells, seeds=(0,)), tmp_path / "run"
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif any('moons' in word for word in sys.argv): os.kill(os.getpid(), 9)\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        code, lines, errors = run(capsys, "sweep", f"--sweep={file}", f"--workdir={directory}")
    assert code == 0, errors
    assert json.loads(lines[-1]) | {"finished": 1, "diverged": 0, "failed": 1} == json.loads(lines[-1])
    assert any("dies/seed0" in line and "SIGKILL" in line for line in errors)
    result = json.loads((directory / "eps/seed0/result.json").read_text())
    assert result["status"] == "finished" and result["steps"] == 2 and result["version"] == __version__
    assert math.isfinite(result["figures"]["heldout_loss"]) and result["train_seconds"] > 0
    assert (directory / "eps/seed0/checkpoints/2").is_dir()
    assert "--config.seed=0" in (directory / "eps/seed0/train.log").read_text()
    code, lines, _ = run(capsys, "compare", directory)
    assert code == 0 and json.loads(lines[-1])["cells"]["dies"]["failed"] == 1


@pytest.mark.parametrize(
    ("program", "code", "reason"),
    [
        ("print('note'); sys.exit('error: data.name is wrong')", 1, "data.name is wrong"),
        ("sys.stderr.write('error: data.name\\nlater\\n'); sys.exit(2)", 2, "data.name"),
        ("raise MemoryError('no more')", 1, "MemoryError: no more"),
        ("sys.exit(3)", 3, "exit code 3"),
        ("os.abort()", -6, "killed by SIGABRT"),
    ],
)
def test_a_command_that_fails_has_a_code_and_a_reason(program, code, reason, tmp_path):
    argv = [sys.executable, "-S", "-c", f"import os, sys\n{program}"]
    (tmp_path / "log").write_text("error: of another time\n")
    outcome = sweeps.execute(argv, tmp_path / "log", {})
    assert outcome.code == code and outcome.results == {} and outcome.message.startswith(reason)


def test_the_last_line_of_a_command_holds_its_results(tmp_path):
    argv = [sys.executable, "-S", "-c", 'print("a table"); print(\'{"loss": "nan", "step": 3}\')']
    assert sweeps.execute(argv, tmp_path / "log", {}) == (0, {"loss": "nan", "step": 3}, "")
    assert "a table" in (tmp_path / "log").read_text()


def test_child_processes_share_compiled_programs(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "7")
    env = sweeps.environment(tmp_path)
    assert env["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / ".cache")
    assert env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "7" and env["PATH"]


@pytest.mark.parametrize("output", ["", "done", "[1, 2]", "7"])
def test_a_command_without_results_has_failed(output, tmp_path):
    outcome = sweeps.execute([sys.executable, "-S", "-c", f"print({output!r}, end='')"], tmp_path / "log", {})
    assert outcome.code and outcome.results == {} and str(tmp_path / "log") in outcome.message


@pytest.mark.parametrize("error", [TypeError("unhashable"), OSError("no space"), KeyError("step"), MemoryError()])
def test_no_fault_of_one_cell_ends_a_sweep(error, tmp_path, capsys, commands, monkeypatch):
    def fails(argv, path, env, execute=sweeps.execute):
        if "eps/seed0" in str(path):
            raise error
        return execute(argv, path, env)

    monkeypatch.setattr(sweeps, "execute", fails)
    directory = tmp_path / "run"
    code, lines, errors = run(capsys, "sweep", f"--sweep={written(tmp_path)}", f"--workdir={directory}")
    assert code == 0 and json.loads(lines[-1])["finished"] == 3 and json.loads(lines[-1])["failed"] == 1
    result = json.loads((directory / "eps/seed0/result.json").read_text())
    assert result["status"] == "failed" and type(error).__name__ in result["reason"]
    assert any("Traceback" in line for line in errors)
    _, lines, _ = run(capsys, "compare", directory)
    assert json.loads(lines[-1])["cells"]["eps"]["failed"] == 1


def test_results_that_are_no_numbers_are_kept_apart_and_metrics_are_columns(tmp_path, capsys, commands):
    """Lists, as the flags of --allow=sizes; a result without step; figures that were asked for."""
    figures = {"marked": ["sizes: few"], "fd_digits_40": 1.5, "fd_digits_40_low": 1.0, "precision_digits_40": 0.5}
    figures |= {"heldout_fid_30": 2.0, "recall_10k": 0.25, "svm_confidence": 0.9, "options": {"a": 1}, "ema": "0.9"}
    file, directory = written(tmp_path, cells={"eps": {}}, seeds=(0,)), tmp_path / "run"
    commands.answers[("eps/seed0", "train")] = sweeps.Outcome(0, {"loss": 0.5}, "")
    commands.answers[("eps/seed0", "evaluate")] = sweeps.Outcome(0, figures, "")
    assert run(capsys, "sweep", f"--sweep={file}", f"--workdir={directory}")[0] == 0
    _, lines, _ = run(capsys, "compare", directory)
    header = next(line for line in lines if line.startswith("|")).strip("| ").split(" | ")
    asked = ["fd_digits_40", "precision_digits_40", "heldout_fid_30", "recall_10k"]
    assert header == ["cell", *asked, "train_seconds", "evaluate_seconds", "seeds"]


# Resuming.


def test_finished_runs_are_skipped_and_failed_ones_tried_again(tmp_path, capsys, commands):
    file, directory = written(tmp_path), tmp_path / "run"
    commands.answers[("eps/seed1", "evaluate")] = sweeps.Outcome(1, {}, "no memory")
    _, lines, _ = run(capsys, "sweep", f"--sweep={file}", f"--workdir={directory}")
    assert json.loads(lines[-1]) == {"workdir": str(directory), "runs": 4, "finished": 3, "diverged": 0, "failed": 1}
    assert commands.ran == [
        (f"{c}/seed{s}", what) for c in ("eps", "v") for s in (0, 1) for what in ("train", "evaluate")
    ]
    failed = json.loads((directory / "eps/seed1/result.json").read_text())
    assert failed["status"] == "failed" and failed["reason"] == "evaluate: no memory"

    commands.answers.clear()
    commands.ran.clear()
    (directory / "v/seed0/result.json").unlink()  # as if interrupted
    _, lines, errors = run(capsys, "sweep", f"--sweep={file}", f"--workdir={directory}")
    assert any("eps/seed0" in line and "before" in line for line in errors)
    assert json.loads(lines[-1])["finished"] == 4 and {name for name, _ in commands.ran} == {"eps/seed1", "v/seed0"}
    # more seeds may be added
    _, lines, _ = run(capsys, "sweep", f"--sweep={written(tmp_path, seeds=(0, 1, 2))}", f"--workdir={directory}")
    assert json.loads(lines[-1])["finished"] == 6


def test_an_interrupted_training_has_no_seconds(tmp_path, commands):
    """The time of its first part is not known, unless only the evaluation is missing."""
    (tmp_path / "eps/seed0/checkpoints/1").mkdir(parents=True)
    one = sweeps.CellRun("eps/seed0", (f"--config={TOY['config']}",), ())
    assert sweeps.carry_out(one, tmp_path / "eps/seed0", {}, {})["train_seconds"] is None
    commands.answers[("eps/seed0", "train")] = sweeps.Outcome(0, {"step": 2, "loss": 0.5, "finished": True}, "")
    result = sweeps.carry_out(one, tmp_path / "eps/seed0", {}, {"status": "failed", "train_seconds": 7.5})
    assert result["train_seconds"] == 7.5 and result["status"] == "finished"


# Divergence.


def test_the_exit_code_of_a_training_decides_whether_it_diverged(tmp_path, commands):
    one = sweeps.CellRun("eps/seed0", (f"--config={TOY['config']}",), ())
    for code, status in ((loop.Diverged.exit_code, sweeps.DIVERGED), (2, sweeps.FAILED), (-9, sweeps.FAILED)):
        commands.answers[("eps/seed0", "train")] = sweeps.Outcome(code, {}, "for some reason")
        assert sweeps.carry_out(one, tmp_path / "eps/seed0", {}, {})["status"] == status


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ([], ""),
        ([{"step": 50, "loss": "nan"}], "the training loss was nan at step 50"),
        ([{"step": 100, "skipped": 10.0}], "10 of 100 updates were not finite"),
        ([{"step": 100, "skipped": 9.0}], ""),
        ([{"step": 100, "heldout_loss": 1.1}], "the held-out loss rose from 1 to 1.1"),
        ([{"step": 100, "heldout_loss": "nan"}], "the held-out loss rose from 1 to nan"),
        ([{"step": 50, "heldout_loss": 7.0}], ""),  # it came back
    ],
)
def test_signs_of_divergence(changes, reason, tmp_path):
    records = [{"step": step, "loss": 1.0, "heldout_loss": 1.0, "skipped": 0.0} for step in (1, 50, 100)]
    lines = "".join(json.dumps(record) + "\n" for record in sorted(records + changes, key=lambda r: r["step"]))
    (tmp_path / "metrics.jsonl").write_text(lines)
    assert sweeps.divergence(tmp_path, {"heldout_loss": 1.0}) == reason
    assert sweeps.divergence(tmp_path, {"heldout_loss": 1.0, "bits_per_dim": "inf"}) == "bits_per_dim is inf"
    fine_in_a_game = not reason or reason.endswith("to 1.1")
    assert sweeps.divergence(tmp_path, {}, game=True) == ("" if fine_in_a_game else reason)


def test_a_cell_may_name_its_own_recipe_and_evaluation():
    described = TOY | {"cells": {"eps": {}, "own": {"config": "digits:tiny", "evaluate": ("--num_samples=1",)}}}
    eps, own = (run for run in sweeps.grid(described) if run.name.endswith("0"))
    assert f"--config={TOY['config']}" in eps.train and eps.evaluate == ()
    assert "--config=digits:tiny" in own.train and own.evaluate == ("--num_samples=1",)
    assert not any("evaluate" in word for word in own.train)
    with pytest.raises(ValueError, match="evaluate"):
        sweeps.check(TOY | {"flags": {"evaluate": ()}})
    assert sweeps.config_of(eps._replace(train=("--config=./configs/digits.py:tiny",))).data.name == "digits"
    for key, value, named in (("config", "nothing", "nothing"), ("evaluate", ("--num_sample=1",), "num_sample")):
        broken = described | {"cells": {"own": {key: value}}}
        with pytest.raises(ValueError, match=named):
            sweeps.check(broken, evaluate.check_words)


@pytest.mark.parametrize(
    "flag",
    ["--metrics=bogus", "--metrics=is", "--allow=foo", "--bootstrap=1", "--scales=x", "--seed=-1", "--lengths=0.1",
     "--sampler.name=bogus", "--likelihood=bogus", "--features=bogus"],
)  # fmt: skip
def test_flags_that_cannot_evaluate_a_cell_are_refused_before_it_is_trained(flag):
    described = {"config": "digits:tiny", "seeds": (0,), "cells": {"one": {}}}
    evaluated = ("--metrics=fid", "--features=pixels", "--num_samples=8", "--allow=few,sizes")
    sweeps.check(described | {"evaluate": evaluated}, evaluate.check_words)
    sweeps.check(described | {"evaluate": ("--metrics=parzen", "--num_samples=8")}, evaluate.check_words)
    with pytest.raises(ValueError, match=flag.split("=")[0].removeprefix("--")):
        sweeps.check(described | {"evaluate": (*evaluated, flag)}, evaluate.check_words)


def test_the_loss_of_a_gan_may_rise(tmp_path, commands, monkeypatch):
    records = [{"step": step, "loss": 1.0, "heldout_loss": loss} for step, loss in ((1, 1.0), (2, 3.0))]
    monkeypatch.setattr(metric_log, "read_metrics", lambda place: records)
    for recipe, status in (("digits_gan:tiny", "finished"), ("digits_vae:tiny", "diverged")):
        one, *_ = sweeps.grid(TOY | {"config": recipe, "cells": {"eps": {}}})
        assert sweeps.config_of(one).eval.every == TOY["flags"]["eval.every"]
        result = sweeps.carry_out(one, tmp_path / recipe / "eps/seed0", {}, {})
        assert result["status"] == status, result


# The table.


def test_compare_gives_means_standard_errors_and_statuses(tmp_path, capsys, commands):
    figures = json.loads(json.dumps(files.json_ready({"step": 2, "heldout_loss": math.nan})))  # as a command prints it
    commands.answers[("v/seed0", "evaluate")] = sweeps.Outcome(0, figures, "")
    commands.answers[("v/seed1", "evaluate")] = sweeps.Outcome(0, figures, "")
    commands.answers[("v/seed2", "train")] = sweeps.Outcome(-9, {}, "killed by SIGKILL")
    file, directory = written(tmp_path, seeds=(0, 1, 2), note="Read with care."), tmp_path / "run"
    assert run(capsys, "sweep", f"--sweep={file}", f"--workdir={directory}")[0] == 0
    code, lines, _ = run(capsys, "compare", directory)
    assert code == 0
    table = [line for line in lines if line.startswith("|")]
    assert table[0].startswith("| cell | heldout_loss | train_seconds | evaluate_seconds | steps | seeds |")
    # 1, 2, 3: mean 2, std 1, so 1/sqrt(3)
    assert "| eps | 2.00 ± 0.58 |" in table[2] and table[2].endswith("| finished (3 of 3) |")
    assert "| v | — |" in table[3] and "diverged (2 of 3): seed0: heldout_loss is nan" in table[3]
    assert "failed (1 of 3): seed2: train: killed by SIGKILL" in table[3] and "Read with care." in lines
    assert (directory / "compare.md").read_text().splitlines() == lines[:-1]
    with open(directory / "compare.csv") as stream:
        eps, v = csv.DictReader(stream)
    assert float(eps["heldout_loss"]) == 2 and float(eps["heldout_loss_stderr"]) == pytest.approx(3**-0.5)
    assert (v["diverged"], v["failed"], v["heldout_loss"]) == ("2", "1", "") and eps["steps"] == "2.0"
    assert json.loads(lines[-1])["cells"]["eps"]["figures"]["heldout_loss"] == [2, pytest.approx(3**-0.5)]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "—"),
        ([1.23456], "1.235"),
        ([3.0, 3.0], "3"),
        ([800_000.0, 800_000.0], "800000"),
        ([3.7511, 3.7531], "3.7521 ± 0.0010"),
        ([100.0, 140.0], "120 ± 20"),
    ],
)
def test_numbers_are_rounded_to_two_digits_of_their_error(values, text):
    assert comparison.rounded(values) == text


# Bad input.

EPS = {"eps": {}}
BAD_FILES = [
    ({"cells": {**EPS, "odd": {"prediction.targt": "eps"}}}, "odd", "target"),
    ({"cells": {**EPS, "odd": {"schedule.name": "cosin"}}}, "odd", "cosine"),
    ({"cells": {**EPS, "odd": {"batch_size": "many"}}}, "odd", "batch_size"),
    ({"cells": {"a/b": {}}}, "a/b", "--sweep="),
    ({"cells": {}}, "'cells'", "--sweep="),
    ({"seed": (0,)}, "'seed'", "'seeds'"),
    ({"seeds": 1}, "'seeds'", "1"),
    ({"seeds": "01"}, "'seeds'", "'01'"),
    ({"seeds": (0, 0.5)}, "'seeds'", "0.5"),
    ({"evaluate": ("--num_sample=5",)}, "eps", "num_sample"),
    ({"evaluate": ("--sampler.num_step=5",)}, "eps", "num_step"),
    ({"config": "configs/nothing.py"}, "eps", "configs/nothing.py"),
    ({"flags": {"data.name": "arrays", "data.arrays.path": "/nowhere.npz"}}, "eps", "/nowhere.npz"),
]


@pytest.mark.parametrize(("changes", "message", "more"), BAD_FILES, ids=[str(case[0]) for case in BAD_FILES])
def test_a_bad_sweep_is_refused_before_anything_runs(changes, message, more, tmp_path, capsys, commands):
    file = written(tmp_path, **changes)
    code, lines, errors = run(capsys, "sweep", f"--sweep={file}", f"--workdir={tmp_path / 'new'}")
    assert code == 2 and not lines and errors[-1].startswith("error: ") and len(errors) == 1
    assert message in errors[0] and more in errors[0]
    assert not commands.ran and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def get_sweep(:\n", "SyntaxError"),
        ("x = 1\n", "get_sweep"),
        ("import nowhere\n", "ModuleNotFound"),
    ],
)
def test_a_file_that_is_no_sweep_is_refused(content, message, tmp_path, capsys):
    (tmp_path / "grid.py").write_text(content)
    code, _, errors = run(capsys, "sweep", f"--sweep={tmp_path / 'grid.py'}", f"--workdir={tmp_path / 'new'}")
    assert code == 2 and f"--sweep={tmp_path / 'grid.py'}" in errors[-1] and message in errors[-1]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["sweep", "--workdir={tmp}/new"], "--sweep"),
        (["sweep", "--sweep={tmp}/grid.py"], "--workdir"),
        (["sweep", "--sweep={tmp}/none.py", "--workdir={tmp}/new"], "none.py"),
        (["sweep", "--sweep=configs/sweeps/ddpm_table2.py:tony", "--workdir={tmp}/new"], "'tony'"),
        (["sweep", "--sweep={tmp}/grid.py", "--workdir={tmp}/grid.py"], "--workdir={tmp}/grid.py"),
        (["sweep", "--sweep={tmp}/grid.py", "--workdir={tmp}"], "--workdir={tmp}"),
        (["sweep", "--sweep={tmp}/grid.py", "--workdir={tmp}/new", "now"], "'now'"),
        (["compare"], "DIR"),
        (["compare", "{tmp}"], "{tmp}"),
        (["compare", "{tmp}/none"], "{tmp}/none"),
        (["compare", "--workdir={tmp}", "{tmp}"], "{tmp}"),
    ],
)
def test_bad_input_is_one_line(argv, message, tmp_path, capsys, commands):
    written(tmp_path)
    code, lines, errors = run(capsys, *(word.format(tmp=tmp_path) for word in argv))
    assert code == 2 and not lines and len(errors) == 1 and errors[0].startswith("error: ")
    assert message.format(tmp=tmp_path) in errors[0]
    assert not commands.ran and [path.name for path in tmp_path.iterdir()] == ["grid.py"]


def test_other_flags_another_version_and_damage_are_refused(tmp_path, capsys, commands):
    """Before anything runs, and without changing any file."""
    file, directory = written(tmp_path), tmp_path / "run"
    asked = ["sweep", f"--sweep={file}", f"--workdir={directory}"]
    assert run(capsys, *asked)[0] == 0
    commands.ran.clear()
    kept = (directory / "sweep.json").read_text()

    written(tmp_path, cells=TOY["cells"] | {"v": {"prediction.target": "x0"}})
    code, _, errors = run(capsys, *asked)
    assert code == 2 and "v/seed0: " in errors[-1] and "--config.prediction.target=v" in errors[-1]
    assert "--config.prediction.target=x0" in errors[-1]
    written(tmp_path, cells=EPS | {"eps": TOY["cells"]["eps"]})
    assert "v/seed0" in run(capsys, *asked)[2][-1]
    assert (directory / "sweep.json").read_text() == kept

    written(tmp_path)
    (directory / "sweep.json").write_text(kept.replace(f'"version": "{__version__}"', '"version": "0.0.1"'))
    code, _, errors = run(capsys, *asked)
    assert code == 2 and "0.0.1" in errors[-1] and __version__ in errors[-1]
    (directory / "sweep.json").write_text(kept)

    (directory / "eps/seed0/result.json").write_text('{"status": "fin')
    for argv in (asked, ["compare", directory]):
        code, _, errors = run(capsys, *argv)
        assert code == 2 and "eps/seed0/result.json" in errors[-1]
    assert not commands.ran


def test_with_accelerators_the_check_runs_in_a_child_process(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setattr(sweeps, "jax", None)  # this process must not use JAX
    described = {"config": "configs/toy2d.py:tiny", "seeds": (0,), "cells": EPS | {"odd": {"schedule.name": "cosin"}}}
    with pytest.raises(ValueError, match="odd"):
        sweeps.check_on_cpu(described)


# The sweeps that ship.

CELLS = {"ddpm_table2": 6, "iddpm_table1": 5, "dpm2015_rates": 4, "neighbours": 5, "fashion_neighbours": 4}
ONE_SIZE = ("dpm2015_rates", "neighbours", "fashion_neighbours")


@pytest.mark.parametrize("name", SWEEPS)
def test_header_holds_commands_and_expected_results(name):
    header = importlib.import_module(f"configs.sweeps.{name}").__doc__
    size = "" if name in ONE_SIZE else ":digits"
    for word in (f"main sweep --sweep=configs/sweeps/{name}.py{size}", "main compare", "\nExpect: ", "\nTime:   "):
        assert word in header


def test_ten_seeds_of_each_kind_of_model():
    described = sweeps.load("neighbours:ten")
    assert (*described["cells"],) == ("diffusion", "vae", "gan")
    assert len(described["seeds"]) == 10


@pytest.mark.parametrize("variant", ["", ":digits", ":tiny"])
@pytest.mark.parametrize("name", SWEEPS)
def test_every_cell_can_be_built(name, variant):
    if variant == ":digits" and name in ONE_SIZE:
        return
    described = sweeps.load(f"configs/sweeps/{name}.py{variant}")
    assert len(described["seeds"]) == (2 if variant == ":tiny" else 3)
    assert len(described["cells"]) == (2 if variant == ":tiny" else CELLS[name])
    sweeps.check(described, data=variant != "")
    for run in sweeps.grid(described):
        recipe, *words = sweeps.trained_words(run)
        config = configs.load(recipe.removeprefix("--config="))
        configs.override_all(config, dict(word.removeprefix("--config.").split("=", 1) for word in words))
        assert configs.in_use(config) == configs.in_use(sweeps.config_of(run))
