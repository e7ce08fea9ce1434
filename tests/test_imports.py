"""The rooms of the package import one way, so that a newcomer knows where a thing can and cannot be."""

import ast
import importlib
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
ORDER = [
    ("files", "progress", "declarations", "averages"),
    ("devices", "process", "networks", "data", "runs.pictures", "runs.weights_and_biases"),
    ("objective", "metrics", "runs.plots", "runs.metric_log", "runs.record"),
    ("sampling",),
    ("likelihood",),
    ("experiment",),
    ("config",),
    ("training",),
    ("runs",),
    ("interop",),
    ("analysis",),
    ("api",),
    ("cli",),
    ("main",),
]
"""The rooms from the bottom up: a module may import its own room and the rows above it."""
ROW = {name: row for row, names in enumerate(ORDER) for name in names}


def imports(path):
    """The modules of ours that a file imports, without the package's name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.removeprefix("diffusion_jax.") for name in names if name.startswith("diffusion_jax."))


def room(module):
    """The most specific room that has a row."""
    return max((name for name in ROW if f"{module}.".startswith(f"{name}.")), key=len)


def test_imports_run_one_way():
    for path in (ROOT / "diffusion_jax").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT / "diffusion_jax").with_suffix("").parts).removesuffix(".__init__")
        if module == "__init__":
            continue
        for imported in set(imports(path)) - {"__version__"}:
            ours, theirs = room(module), room(imported)
            assert ours == theirs or ROW[theirs] < ROW[ours], f"{module} must not import {imported}"


def test_the_package_itself_imports_nothing_slow():
    code = "import sys, diffusion_jax; print(sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert not {"jax", "flax", "numpy", "tensorflow"} & set(ast.literal_eval(loaded))


def test_no_device_words_outside_their_rooms():
    words = ("shard_map", "pmap(", "psum", "pmean", "PartitionSpec", "NamedSharding", "all_gather")
    for path in (ROOT / "diffusion_jax").rglob("*.py"):
        if path.parent.name == "devices" or path.name in ("step.py", "schema.py"):
            continue
        found = [word for word in words if word in path.read_text()]
        assert not found, f"{path}: {found}"


@pytest.mark.parametrize("value", [1, 2])
def test_a_module_of_one_test_is_not_seen_by_the_next(value, tmp_path, monkeypatch):
    (tmp_path / "written_by_a_test.py").write_text(f"value = {value}")
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.import_module("written_by_a_test").value == value
