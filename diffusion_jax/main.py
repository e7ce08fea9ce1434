"""The command line: python -m diffusion_jax.main COMMAND --flags.

Flags are written --NAME=VALUE or --NAME VALUE. Logs and progress go to standard error; the last line of standard output
is one JSON object with the results. Bad input is one line on standard error and exit code 2; --debug shows its
traceback. Further exit codes: 3 after a training that diverged; 75 after SIGTERM, SIGHUP or SIGUSR1 and 130 after
Ctrl-C, when the training is saved and the same command resumes. train, sample and evaluate also run as several
processes: under SLURM, on TPU pods, or with --coordinator_address, --num_processes and --process_id.
"""

import difflib
import json
import os
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from diffusion_jax import __version__, cli
from diffusion_jax.cli import environment
from diffusion_jax.cli.common import one_line
from diffusion_jax.cli.parser import FALSE, Parser

FAULT, BAD_INPUT, INTERRUPTED, UNREAD = 1, 2, 130, 141


def run(argv: list[str]) -> int:
    """Carry out [program, command, flags…] and return the exit code. An unexpected exception is raised."""
    started = time.perf_counter()
    commands, words = cli.commands(), argv[1:]
    if not words or words[0] in ("--help", "-h", "help"):
        print(overview(commands))
        return 0 if words else BAD_INPUT
    if words[0] == "--version":
        print(__version__)
        return 0
    name = words[0]
    if name not in commands:
        near = difflib.get_close_matches(name, commands, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        print(f"error: {name}: unknown command.{hint} Commands: {', '.join(commands)}", file=sys.stderr)
        return BAD_INPUT
    command = commands[name]
    parser = Parser(name, summary(command))
    command.add_flags(parser)
    environment.add_flags(parser)
    if {"--help", "-h"} & set(words):
        print(f"main {name}: {parser.description}\n\n{parser.listing()}")
        return 0
    from diffusion_jax import files
    from diffusion_jax.runs import pictures

    debug = debugs(words)
    try:
        with environment.logging_to_stderr(), environment.quiet_threads(not debug):
            args = parser.read(words[1:])
            args.started = started
            first = environment.join(args, name, getattr(command, "SEVERAL_PROCESSES", False))
            if getattr(command, "DEVICES", True):
                environment.check_platform()
            with pictures.written_as(getattr(args, "format", "png")):
                results: dict[str, Any] = command.run(args)
    except (ValueError, OSError, FloatingPointError, zipfile.BadZipFile) as error:
        if debug or isinstance(error, BrokenPipeError):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return getattr(error, "exit_code", BAD_INPUT)
    except KeyboardInterrupt:
        if debug:
            raise
        print("error: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        error.add_note(
            f"\nThis is a fault in diffusion_jax {__version__}. Please report it with this traceback and the command:\n"
            f"    main {' '.join(words)}"
        )
        raise
    code: int = results.pop("exit_code", 0)
    if first:
        print(json.dumps(files.json_ready(results), allow_nan=False))
    return code


def overview(commands: Mapping[str, ModuleType]) -> str:
    """Return the text of --help: a line for each command."""
    lines = [f"    {name:18}{summary(command)}" for name, command in commands.items()]
    return "\n".join([__doc__.strip(), "", "Commands; COMMAND --help lists the flags of one:", "", *lines])


def summary(command: ModuleType) -> str:
    """Return the first line of a command's docstring."""
    return (command.__doc__ or "").strip().splitlines()[0]


def debugs(words: Sequence[str]) -> bool:
    """Return whether the words of a command line ask for tracebacks."""
    chosen = [word.partition("=")[2] for word in words if word.split("=")[0] == "--debug"]
    return bool(chosen) and chosen[-1].lower() not in FALSE


def main() -> int:
    """Run the command line of this process."""
    command = cli.commands().get(sys.argv[1]) if len(sys.argv) > 1 else None
    if command and getattr(command, "DEVICES", True):
        environment.use_huge_pages()
    environment.prepare_process()
    environment.set_threads(getattr(command, "THREADS", 0))
    if not debugs(sys.argv):
        environment.silence_threads()  # they may fail after the command, until the process ends
    if getattr(command, "COMPILE_CACHE", True):
        environment.keep_compiled()
    try:
        code = run(sys.argv)
        if sys.stdout:
            sys.stdout.flush()
    except BrokenPipeError:  # nobody reads the output any more, as after | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return UNREAD
    except BaseException:
        environment.end_without_others(FAULT)
        raise
    if code in (BAD_INPUT, INTERRUPTED):  # the others of a run may not have failed
        environment.end_without_others(code)
    if environment.waits_for_compiled_code():  # do not wait for its end
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
