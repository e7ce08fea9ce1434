"""The log of a run: metrics, pictures and, if installed, TensorBoard and Weights & Biases.

    workdir/metrics.jsonl    one JSON object a line: {"step": …, "time": seconds since 1970, name: value, …}
            images/          PNG files, <name>_<step>_<weights>.png, with weights such as EMA_0.998 or raw_weights
            tensorboard/     the same for TensorBoard
            wandb/           the same for Weights & Biases, if asked for
            curves.png       the losses against the step

Everything is flushed as it is written, and a resumed run appends.
"""

import dataclasses
import importlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from clu import parameter_overview
from etils import epath

from diffusion_jax import files
from diffusion_jax.runs import pictures, weights_and_biases

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"

# While a run goes on.


class Reporter(NamedTuple):
    """Functions that write the log of a run. On all processes but the first, they do nothing."""

    scalars: Callable[[int, Mapping[str, Any]], None]
    """`scalars(step, values)`: numbers by name."""
    images: Callable[[int, str, np.ndarray, int, str, Sequence[str]], None]
    """`images(step, name, samples, levels, weights, captions)`: as `pictures.picture` takes them, and their weights."""
    close: Callable[[], None]


def open_reporter(
    workdir: epath.PathLike, tensorboard: bool = True, config: Mapping[str, Any] | None = None, wandb: str = ""
) -> Reporter:
    """Open the log of a run directory, to append to it.

    The directory is made if necessary. tensorboard: also write for TensorBoard, if TensorFlow is installed; otherwise
    one log line says how to install it. config: flat, written for TensorBoard as a text and as hparams. wandb: project
    of Weights & Biases to write to as well; empty for none.
    """
    if jax.process_index() != 0:
        return Reporter(lambda *_: None, lambda *_: None, lambda: None)
    directory = files.place_of(workdir)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / METRICS
    incomplete = path.exists() and not ("\n" + path.read_bytes().decode(errors="replace")).endswith("\n")
    file = path.open("a")
    if incomplete:
        file.write("\n")
    board = _tensorboard(directory / "tensorboard") if tensorboard else None
    cloud = weights_and_biases.open_writer(directory, wandb, config or {}) if wandb else None

    if board and config:
        board.write_texts(0, {"config": "\n".join(f"    {key} = {value!r}" for key, value in config.items())})
        board.write_hparams({k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in config.items()})
        board.flush()

    def scalars(step: int, values: Mapping[str, Any]) -> None:
        numbers = {name: float(value) for name, value in values.items()}
        written = files.json_ready({"step": int(step), "time": round(time.time(), 3), **numbers})
        file.write(json.dumps(written, allow_nan=False) + "\n")
        file.flush()
        if board:
            board.write_scalars(int(step), numbers)
            board.flush()
        if cloud:
            cloud.scalars(int(step), numbers)

    def images(
        step: int, name: str, samples: np.ndarray, levels: int, weights: str, captions: Sequence[str] = ()
    ) -> None:
        pixels = pictures.picture(samples, levels, captions)
        pictures.write_png(directory / "images" / f"{name}_{step:08d}_{weights.replace(' ', '_')}.png", pixels)
        shown = pixels.reshape(*pixels.shape[:2], -1)
        if board:
            board.write_images(int(step), {f"{name}/{weights}": shown[None]})
            board.flush()
        if cloud:
            cloud.image(int(step), f"{name}/{weights}", shown)

    def close() -> None:
        file.close()
        if board:
            board.close()
        if cloud:
            cloud.close()

    return Reporter(scalars, images, close)


def _tensorboard(directory: epath.Path) -> Any:
    """Return CLU's writer for TensorBoard, or None. TensorFlow must not use the accelerators, whose memory it fills."""
    try:
        tensorflow = importlib.import_module("tensorflow")
        tensorflow.config.set_visible_devices([], "GPU")
        directory.mkdir(parents=True, exist_ok=True)  # an OSError, where TensorFlow would raise its own
        return importlib.import_module("clu.metric_writers").SummaryWriter(str(directory))
    except ImportError as error:
        log.info(
            "no TensorBoard (%s); to install it: pip install 'diffusion_jax[tf]'. metrics.jsonl holds all values", error
        )
        return None


@dataclasses.dataclass
class _Row:
    module: str
    arrays: int = 0
    parameters: int = 0


def parameter_table(params: Any) -> str:
    """Return a table with a row for each module, net/MODULE.

    Columns: its number of arrays (or shapes), and the number of their elements.
    """
    rows: dict[str, _Row] = {}
    for path, leaf in jax.tree.leaves_with_path(params):
        module = jax.tree_util.keystr(path[:2], simple=True, separator="/")
        row = rows.setdefault(module, _Row(module))
        row.arrays += 1
        row.parameters += math.prod(leaf.shape)
    total = _Row("total", sum(row.arrays for row in rows.values()), sum(row.parameters for row in rows.values()))
    return parameter_overview.make_table(
        [*rows.values(), total], value_formatter=lambda cell: cell if isinstance(cell, str) else f"{cell:,}"
    )


def banner(params: Any, devices: Sequence[Any], workdir: epath.PathLike) -> str:
    """Return the first lines of a run's log: parameters (arrays or shapes), devices, run directory."""
    kinds = sorted({f"{device.platform} ({device.device_kind})" for device in devices})
    local = sum(device.process_index == jax.process_index() for device in devices)
    lines = [
        parameter_table(params),
        f"devices: {len(devices)} x {', '.join(kinds)}; {local} of them here, in process {jax.process_index()} "
        f"of {jax.process_count()}",
        f"workdir: {epath.Path(workdir)}",
    ]
    return "\n".join(lines)


# Reading metrics back.


def read_metrics(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """Return all logged values, one dict per step, in order of steps.

    Lines of the same step are merged. A run that resumed at an earlier step writes steps again: the later lines count,
    and the earlier lines after that step are dropped. An incomplete line, from a kill, is skipped. Raises
    FileNotFoundError.
    """
    path = files.place_of(workdir) / METRICS
    if not path.exists():
        raise FileNotFoundError(
            f"{workdir}: no {METRICS}. Train first: "
            f"python -m diffusion_jax.main train --config=CONFIG --workdir={workdir}"
        )
    by_step: dict[int, dict[str, Any]] = {}
    last_step = -1
    for line in path.read_bytes().decode(errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if not isinstance(record, dict) or "step" not in record:
            continue
        step = record["step"]
        if step < last_step:
            by_step = {k: v for k, v in by_step.items() if k < step}
        last_step = step
        by_step[step] = by_step.get(step, {}) | {name: files.number(value) for name, value in record.items()}
    return list(by_step.values())


def last(workdir: epath.PathLike, name: str) -> float | None:
    """Return the newest logged value of a name; None if there is none."""
    return next((record[name] for record in reversed(read_metrics(workdir)) if name in record), None)
