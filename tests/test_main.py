"""The command line: commands are found, results are one JSON line, and each way to end has its exit code."""

import signal
import subprocess
import sys

import pytest

from diffusion_jax import cli, main
from diffusion_jax.cli import report


def test_a_command_stands_in_one_file():
    for name, command in cli.commands().items():
        assert command.__name__.rpartition(".")[2] in (name, getattr(command, "NAME", "").replace("-", "_"),
                                                       f"{name}_weights")  # fmt: skip
        assert main.summary(command).endswith(".") and command.run.__doc__


@pytest.mark.parametrize(
    ("words", "asked"), [([], False), (["--debug"], True), (["--debug=true"], True), (["--debug=false"], False)]
)
def test_tracebacks_on_request(words, asked):
    assert main.debugs(["train", *words]) == asked


@pytest.mark.parametrize("command", cli.commands())
def test_each_command_lists_its_flags(command, capsys):
    assert main.run(["main", command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    flags = [line.split()[0] for line in lines if line.startswith("  --")]
    assert len(set(flags)) == len(flags) > 5 and "--debug" in flags
    assert all(len(line) <= 120 and line.split()[1:] for line in lines[2:])
    assert main.run(["main", command, "--help", "--nonsense"]) == 0


def test_help_lists_each_command(capsys):
    assert main.run(["main", "--help"]) == 0
    words = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("    ")}
    assert words == set(cli.commands())
    assert main.run(["main"]) == 2
    assert main.run(["main", "--version"]) == 0


def test_an_unknown_command_is_an_error_with_the_nearest_name(capsys):
    assert main.run(["main", "trian"]) == 2
    captured = capsys.readouterr()
    assert not captured.out and "'train'" in captured.err and len(captured.err.splitlines()) == 1


def test_help_needs_no_jax():
    code = (
        "import sys\nfrom diffusion_jax import main\n"
        "main.run(['main', '--help'])\nmain.run(['main', 'train', '--help'])\n"
        "print({'jax', 'flax', 'tensorflow', 'ml_collections', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_terminal_without_the_characters_gets_escapes():
    code = "import sys\nfrom diffusion_jax.cli import environment\nenvironment.prepare_process()\nprint('Fréchet')"
    env = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0 and done.stdout == "Fr\\xe9chet\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("--seed: bad"), 2),
        (FileNotFoundError(2, "No such file", "x"), 2),
        (FloatingPointError("not finite"), 2),
        (KeyboardInterrupt(), 128 + signal.SIGINT),
    ],
)
def test_every_error_has_an_exit_code_and_one_line(error, code, capsys, monkeypatch):
    def run(args):
        raise error

    monkeypatch.setattr(report, "run", run)
    assert main.run(["main", "report", "--workdir=x"]) == code
    captured = capsys.readouterr()
    assert not captured.out and [line[:7] for line in captured.err.splitlines()] == ["error: "]
    with pytest.raises(type(error)):
        main.run(["main", "report", "--workdir=x", "--debug"])


def test_output_that_nobody_reads_any_more_is_no_fault():
    command = [sys.executable, "-m", "diffusion_jax.main", "describe", "--keys"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() == 141


def test_an_unexpected_error_keeps_its_traceback_and_notes_the_command(monkeypatch):
    monkeypatch.setattr(report, "run", lambda args: {}["key"])
    with pytest.raises(KeyError) as caught:
        main.run(["main", "report", "--workdir=x"])
    assert "report --workdir=x" in caught.value.__notes__[0]


def test_results_are_one_json_line_and_may_give_the_exit_code(capsys, monkeypatch):
    monkeypatch.setattr(report, "run", lambda args: {"a": float("nan"), "exit_code": 7})
    assert main.run(["main", "report", "--workdir=x"]) == 7
    assert capsys.readouterr().out == '{"a": "nan"}\n'
