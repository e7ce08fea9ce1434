"""The commands of the command line, one module each.

A module with a function `run` is a command. It holds `add_flags(parser)`, which declares the flags, and
`run(args) -> results`, which uses them; the results are printed as one JSON object. The first line of its docstring is
its line in `main --help`. Modules import JAX when they run, not when they are loaded. Optional constants:

    NAME                the name of the command, where a module cannot have it
    SEVERAL_PROCESSES   True: the command also runs as several processes
    DEVICES             False: the command needs no devices
    COMPILE_CACHE       False: compiled programs are not stored for later commands
"""

import importlib
import pkgutil
from types import ModuleType


def commands() -> dict[str, ModuleType]:
    """Return the modules of all commands by the names of the commands."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    named = {getattr(module, "NAME", module.__name__.rpartition(".")[2]): module for module in modules}
    return {name: module for name, module in named.items() if hasattr(module, "run")}
