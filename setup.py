"""What the package is and what it needs; build and tool settings stand in pyproject.toml."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "diffusion_jax" / "__init__.py").read_text()).group(1)
LINUX_X86 = 'sys_platform == "linux" and platform_machine == "x86_64"'
TENSORFLOW = [
    f"tensorflow-cpu>=2.21; {LINUX_X86}",
    'tensorflow>=2.21; sys_platform != "linux" or platform_machine != "x86_64"',
    "tensorboard>=2.20",
    "importlib_resources>=6.5",  # tensorflow-datasets imports it to build a set, and does not declare it
]
JUPYTEXT = "jupytext>=1.17"
NOTEBOOKS = ["jupyterlab>=4.4", "nbclient>=0.10", JUPYTEXT]
CHECKS = ["ruff>=0.14", "mypy>=1.18", "pre-commit>=4.3"]
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.6"]
TESTS = ["pytest>=9.0", "pytest-xdist>=3.8", "hypothesis>=6.140", "ipython>=9.0", "setuptools>=65"]
CODEC = ["constriction>=0.4"]
DEV = [*TESTS, JUPYTEXT, *CHECKS, *DOCS, *CODEC]

setuptools.setup(
    name="diffusion_jax",
    version=VERSION,
    description="Diffusion models in JAX and Flax, from Sohl-Dickstein et al. 2015 and DDPM to the score-based view.",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=[
        *setuptools.find_packages(include=["diffusion_jax", "diffusion_jax.*"]),
        *("diffusion_jax.recipes", "diffusion_jax.recipes.sweeps"),
    ],
    package_dir={"diffusion_jax.recipes": "configs"},  # a wheel takes the recipes along
    package_data={"diffusion_jax": ["py.typed"], "diffusion_jax.metrics": ["*.npz"]},
    python_requires=">=3.11",
    install_requires=[
        "absl-py>=2.3",
        "array-record>=0.8; sys_platform != 'win32'",
        "clu>=0.0.12",
        "flax>=0.12.4",
        "jax>=0.10.2",
        "matplotlib>=3.10",
        "ml-collections>=1.1",
        "numpy>=2.1",
        "optax>=0.2.6",
        "orbax-checkpoint>=0.11.33",
        "pillow>=11.3",
        "safetensors>=0.6",
        "scikit-learn>=1.7",
        "scipy>=1.16",
        "tensorflow-datasets>=4.9.9",
        "tqdm>=4.67",
    ],
    extras_require={
        "cuda12": ["jax[cuda12]>=0.10.2"],
        "cuda13": ["jax[cuda13]>=0.10.2"],
        "tpu": ["jax[tpu]>=0.10.2"],
        "tf": TENSORFLOW,
        "wandb": ["wandb>=0.22"],
        "codec": CODEC,
        "notebooks": NOTEBOOKS,
        "dev": [*DEV, *TENSORFLOW],
    },
)
