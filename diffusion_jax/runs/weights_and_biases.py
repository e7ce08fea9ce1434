"""Weights & Biases: the scalars, pictures and config of a run.

Runs are online or offline, according to WANDB_MODE.

workdir/wandb/      files of wandb itself, with what `wandb sync` uploads after WANDB_MODE=offline
              id    name of the run, under which a resumed training goes on
"""

import importlib
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from diffusion_jax import files

FOLDER = "wandb"


class Writer(NamedTuple):
    """Functions that send the log of a run."""

    scalars: Callable[[int, Mapping[str, float]], None]
    """`scalars(step, values)`: numbers by name."""
    image: Callable[[int, str, np.ndarray], None]
    """`image(step, name, pixels)`: pixels uint8 [H,W,1 or 3]."""
    close: Callable[[], None]


def check(project: str) -> None:
    """Raise ValueError if a project is named and wandb cannot be imported."""
    if not project:
        return
    try:
        importlib.import_module("wandb")
    except ImportError as error:
        raise ValueError(
            f"report.wandb={project!r}: wandb is not installed ({error}). Install it, pip install "
            "'diffusion_jax[wandb]', or leave report.wandb empty"
        ) from error


def open_writer(workdir: epath.PathLike, project: str, config: Mapping[str, Any]) -> Writer:
    """Open the log of a run directory in a project, to append to it.

    config: flat, as the config of the run. Values are logged against `step`, which may fall after a roll-back. Raises
    the errors of wandb, such as a missing login.
    """
    wandb = importlib.import_module("wandb")
    directory = files.place_of(workdir)
    name = directory / FOLDER / "id"
    name.parent.mkdir(parents=True, exist_ok=True)
    if not name.exists():
        name.write_text(uuid.uuid4().hex)
    opened = wandb.init(
        project=project,
        name=directory.name,
        id=name.read_text(),
        resume="allow",
        dir=None if "://" in str(directory) else str(directory),
        config=dict(config),
        settings=wandb.Settings(console="off", silent=True),
    )
    opened.define_metric("*", step_metric="step")

    def scalars(step: int, values: Mapping[str, float]) -> None:
        opened.log({"step": step, **values})

    def image(step: int, name: str, pixels: np.ndarray) -> None:
        opened.log({"step": step, name: wandb.Image(pixels)})

    return Writer(scalars, image, opened.finish)
