"""Four CPU devices for every test, set before JAX is imported, and a compiler that hurries: most time goes there."""

import atexit
import gc
import logging
import os
import shutil
import sys
import tempfile

os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=4",
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
        "--xla_cpu_enable_concurrency_optimized_scheduler=false",
    ]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("PJRT_NPROC", "8")  # threads to spare, see diffusion_jax/cli/environment.py
# Programs need not remember which line of Python and which module each of their operations comes from.
os.environ |= {"JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0", "JAX_INCLUDE_FULL_TRACEBACKS_IN_LOCATIONS": "0"}
os.environ["FLAX_PROFILE"] = "false"
os.environ.setdefault("GLIBC_TUNABLES", "")  # commands in processes of their own do not start twice
# Programs that several tests share are compiled once, by whichever process comes first.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="diffusion_jax_tests_")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import pytest

gc.set_threshold(100_000, 20, 50)  # tracing makes many objects and few cycles


@pytest.fixture
def x64():
    """Run a test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def one_device():
    """Run a module's tests on the first device alone, where they are not about several: less to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda: 1)
        yield


@pytest.fixture
def own_logging():
    """The package's logger without handlers, at its level at import; what a test sets is undone."""
    package = logging.getLogger("diffusion_jax")
    before = package.handlers, package.level, package.propagate
    package.handlers, package.propagate = [], True
    package.setLevel(logging.NOTSET)
    yield package
    package.handlers, _, package.propagate = before
    package.setLevel(before[1])


@pytest.fixture(autouse=True)
def forget_modules(tmp_path_factory):
    """Forget what a test imported from a temporary folder: another test may write a module of the same name."""
    before = set(sys.modules)
    yield
    folder = str(tmp_path_factory.getbasetemp())
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(folder):
            del sys.modules[name]


LONGEST = (
    "test_configs", "test_notebooks", "test_processes", "test_loop", "test_step", "test_exchange", "test_docs",
    "test_api", "test_guided", "test_bad_input", "test_sweeps",
)  # fmt: skip
"""Files that take more than half a minute. They run first, so that at the end no worker waits for the other."""


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
