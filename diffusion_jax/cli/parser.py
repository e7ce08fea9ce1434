"""Flags of a command: declared by kind, parsed by argparse, every fault one ValueError.

parser.flag("seed", int, 0, "Seed of the first sample.")        --seed=1 or --seed 1
parser.flag("compile", bool, False, "…")                        --compile, --compile=false or --nocompile
parser.flag("steps", list, "5,10", "…")                         --steps=5,10, a list of strings
parser.flag("out", Path, "samples.npz", "…")                    a path, with ~ expanded
parser.group("sampler", "…")                                    --sampler.KEY=VALUE, collected in args.overrides
"""

import argparse
import difflib
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from diffusion_jax.files import expand

Flags = argparse.Namespace
"""The values of the flags by name; `overrides` holds {GROUP.KEY: text}, and `typed` the names on the command line."""

TRUE, FALSE = ("true", "t", "1", "yes", "y"), ("false", "f", "0", "no", "n")
NUMBERS = {int: "a whole number", float: "a number"}


class Path(str):
    """Kind of a flag that holds a path or a URL."""


class Parser(argparse.ArgumentParser):
    """The flags of one command."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=command, description=description, add_help=False, allow_abbrev=False, exit_on_error=False)
        self.groups: dict[str, str] = {}
        """Help texts of the groups --GROUP.KEY=VALUE."""
        self._needed: list[str] = []
        self._booleans: list[str] = []

    def flag(
        self, name: str, kind: type, default: Any, help: str, choices: Sequence[str] = (), needed: bool = False
    ) -> None:
        """Declare a flag. kind: str, int, float, bool, list or Path. needed: without a value it is an error."""
        if kind is bool:
            self._booleans.append(name)
        if needed:
            self._needed.append(name)
        self.add_argument(f"--{name}", type=_reader(kind), default=default, help=help, choices=choices or None)

    def group(self, name: str, help: str) -> None:
        """Declare --NAME.KEY=VALUE."""
        self.groups[name] = help

    def error(self, message: str) -> Any:
        """Raise ValueError where argparse would exit."""
        raise ValueError(message)

    def read(self, words: Sequence[str]) -> Flags:
        """Return the values of a command line, without the command. Raises ValueError for whatever is wrong in it."""
        plain, overrides = self._overrides(self._explicit_booleans(words))
        try:
            args, unknown = self.parse_known_args(plain)
        except argparse.ArgumentError as error:
            raise ValueError(f"{error.argument_name}: {error.message}") from None
        if unknown:
            raise ValueError(self._unknown(unknown[0]))
        for name in self._needed:
            if not getattr(args, name):
                raise ValueError(f"--{name}: missing. {self._help(name)}")
        args.overrides = overrides
        args.typed = {word.partition("=")[0].removeprefix("--") for word in plain if word.startswith("--")}
        return args

    def listing(self) -> str:
        """Return the flags, one on a line, for --help."""
        rows = []
        for action in self._actions:
            name = f"--{action.dest}" if action.option_strings else action.dest.upper()
            notes = [", ".join(action.choices)] if action.choices else []
            if action.default not in (None, "", []):
                default = str(action.default)
                notes.append(f"default: {default.lower() if isinstance(action.default, bool) else default}")
            text = (action.help or "").rstrip(".")
            rows.append((name, f"{text} ({'; '.join(notes)})." if notes else f"{text}."))
        rows += [(f"--{name}.KEY", help) for name, help in self.groups.items()]
        width = max(len(name) for name, _ in rows) + 2
        lines = []
        for name, help in rows:
            lines += textwrap.wrap(help, 120, initial_indent=f"  {name:{width}}", subsequent_indent=" " * (width + 2))
        return "\n".join(lines)

    def _explicit_booleans(self, words: Sequence[str]) -> list[str]:
        """Spell booleans as --NAME=VALUE: --NAME and --noNAME, and --NAME true or false as two words."""
        yes = {f"--{name}": f"--{name}=true" for name in self._booleans}
        no = {f"--no{name}": f"--{name}=false" for name in self._booleans}
        spelt: list[str] = []
        for word in words:
            if word in ("true", "false") and spelt and spelt[-1] in yes:
                spelt[-1] = f"{spelt[-1]}={word}"
            else:
                spelt.append(no.get(word, word))
        return [yes.get(word, word) for word in spelt]

    def _overrides(self, words: list[str]) -> tuple[list[str], dict[str, str]]:
        """Take --GROUP.KEY=VALUE and --GROUP.KEY VALUE out of a command line."""
        plain, overrides = [], {}
        rest = iter(words)
        for word in rest:
            key, equals, value = word.removeprefix("--").partition("=")
            group, dot, _ = key.partition(".")
            is_section = group in self.groups and group not in {action.dest for action in self._actions}
            if not word.startswith("--") or group not in self.groups or not (dot or is_section):
                plain.append(word)
                continue
            if not equals:
                try:
                    value = next(rest)
                except StopIteration:
                    raise ValueError(f"{word}: needs a value, {word}=VALUE") from None
            overrides[key] = value
        return plain, overrides

    def _unknown(self, word: str) -> str:
        """The error for a word that is no flag of this command."""
        flag = word.partition("=")[0]
        if not word.startswith("--"):
            hint = f" Did you mean --config={word}?" if "config" in self.groups else ""
            return f"{word!r}: is not a flag.{hint} Flags are written --NAME=VALUE"
        key = flag.removeprefix("--")
        group, dot, rest = key.partition(".")
        if dot and "config" in self.groups:
            return f"{flag}: unknown flag. Keys of the config are written --config.{key}=VALUE"
        if dot and group == "config" and self.groups:
            typed = f" Use --{rest}=VALUE" if rest.partition(".")[0] in self.groups else ""
            return f"{flag}: the config of a run is fixed, but for {', '.join(self.groups)}.{typed}"
        names = [action.dest for action in self._actions if action.option_strings]
        near = self._keys_called(key) or difflib.get_close_matches(key, names, 1)
        hint = f" Did you mean --{' or --'.join(near)}?" if near else ""
        keys = " Keys of the config are written --config.KEY=VALUE." if "config" in self.groups and not near else ""
        return f"{flag}: unknown flag.{hint}{keys} Flags of {self.prog}: {', '.join(names)}"

    def _keys_called(self, key: str) -> list[str]:
        """Return the keys of the groups that a word means.

        It is their last part or an alias. They are spelt as flags, without --.
        """
        from diffusion_jax import config as configs

        near = [name for name in configs.nearest_keys(configs.defaults(), key) if not name.startswith("data.")]
        near = [name for name in near if key in configs.ALIASES or name.rpartition(".")[2] == key]
        if "config" in self.groups:
            return [f"config.{name}" for name in near]
        return [name for name in near if name.partition(".")[0] in self.groups]

    def _help(self, name: str) -> str:
        return next(action.help or "" for action in self._actions if action.dest == name)


def _reader(kind: type) -> Callable[[str], Any]:
    """Return the function that turns the text of a flag into its value."""

    def read(text: str) -> Any:
        if kind is list:
            return [part.strip() for part in text.split(",") if part.strip()]
        if kind is Path:
            return expand(text)
        if kind is bool:
            if text.lower() in (*TRUE, *FALSE):
                return text.lower() in TRUE
            raise argparse.ArgumentTypeError(f"expected true or false (got {text!r})")
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {NUMBERS[kind]} (got {text!r})") from None

    return read
