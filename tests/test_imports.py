"""The rooms of the package import one way, so that a newcomer knows where a thing can and cannot be."""

import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
BOTTOM = ["process", "networks", "data", "files", "progress", "devices"]
MATHEMATICS = ["objective", "sampling", "likelihood"]
MAY_IMPORT = {name: [name] for name in BOTTOM} | {
    "devices": ["progress"],
    "objective": ["process"],
    "sampling": ["objective", "process"],
    "likelihood": ["sampling", "objective", "process"],
    "metrics": ["data", "networks", "files", "progress", "devices"],
    "interop": ["networks", "files", "experiment", "training"],
    "experiment": [*BOTTOM, "objective", "sampling", "metrics"],
    "training": [*BOTTOM, "objective", "sampling", "metrics", "experiment", "runs"],
    "runs": [*BOTTOM, "experiment", "training"],
    "analysis": [*BOTTOM, *MATHEMATICS, "metrics", "experiment", "training", "runs", "arguments"],
}
MAY_IMPORT = {name: [name, *below] for name, below in MAY_IMPORT.items()}


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
    """The most specific room that has a rule."""
    return max((name for name in MAY_IMPORT if f"{module}.".startswith(f"{name}.")), key=len, default=None)


def test_imports_run_one_way():
    for path in (ROOT / "diffusion_jax").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT / "diffusion_jax").with_suffix("").parts)
        if room(module) is None:
            continue
        for imported in imports(path):
            allowed = any(f"{imported}.".startswith(f"{name}.") for name in MAY_IMPORT[room(module)])
            assert allowed or imported == "__version__", f"{module} must not import {imported}"


def test_configs_import_configs_only():
    for path in (ROOT / "configs").rglob("*.py"):
        assert not list(imports(path)), path


def test_the_package_itself_imports_nothing_slow():
    code = "import sys, diffusion_jax; print(sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert not {"jax", "flax", "numpy", "tensorflow"} & set(ast.literal_eval(loaded))


def test_no_device_words_outside_their_rooms():
    words = ("shard_map", "pmap(", "psum", "pmean", "PartitionSpec", "NamedSharding", "all_gather")
    for path in (ROOT / "diffusion_jax").rglob("*.py"):
        if path.parent.name == "devices" or path.name == "step.py":
            continue
        found = [word for word in words if word in path.read_text()]
        assert not found, f"{path}: {found}"
