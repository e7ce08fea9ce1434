"""What a run tells: metrics.jsonl always, TensorBoard where it is installed, pictures, a line of progress, curves.

    workdir/metrics.jsonl    one JSON object a line: {"step": …, "time": seconds since 1970, name: value, …}
            images/          PNG files, <name>_<step>.png
            tensorboard/     the same for TensorBoard
            curves.png       the losses against the step

Everything is flushed as it is written, and a run that resumes goes on where it left off.
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
from diffusion_jax.progress import duration, per_second
from diffusion_jax.runs import pictures

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"

# While a run goes on.


class Reporter(NamedTuple):
    """Where a run reports to; on all processes but the first, its functions do nothing."""

    scalars: Callable[[int, Mapping[str, Any]], None]
    """`scalars(step, values)`: numbers by name."""
    images: Callable[[int, str, np.ndarray, int], None]
    """`images(step, name, samples, levels)`: samples as `pictures.picture` takes them."""
    close: Callable[[], None]


def open_reporter(workdir: epath.PathLike, tensorboard: bool = True) -> Reporter:
    """Open the reports of a workdir, created if need be, to append to what is there.

    tensorboard: also write for TensorBoard, if TensorFlow is installed; if not, one line says how to get it.
    """
    if jax.process_index() != 0:
        return Reporter(lambda step, values: None, lambda step, name, samples, levels: None, lambda: None)
    directory = epath.Path(workdir).expanduser()
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / METRICS
    torn = path.exists() and not ("\n" + path.read_text()).endswith("\n")
    file = path.open("a")
    if torn:
        file.write("\n")
    board = _tensorboard(directory / "tensorboard") if tensorboard else None

    def scalars(step: int, values: Mapping[str, Any]) -> None:
        numbers = {name: float(value) for name, value in values.items()}
        written = files.json_ready({"step": int(step), "time": round(time.time(), 3), **numbers})
        file.write(json.dumps(written, allow_nan=False) + "\n")
        file.flush()
        if board:
            board.write_scalars(int(step), numbers)
            board.flush()

    def images(step: int, name: str, samples: np.ndarray, levels: int) -> None:
        pixels = pictures.picture(samples, levels)
        pictures.write_png(directory / "images" / f"{name}_{step:08d}.png", pixels)
        if board:
            board.write_images(int(step), {name: pixels.reshape(1, *pixels.shape[:2], -1)})
            board.flush()

    def close() -> None:
        file.close()
        if board:
            board.close()

    return Reporter(scalars, images, close)


def _tensorboard(directory: epath.Path) -> Any:
    """CLU's writer for TensorBoard, or None. TensorFlow is kept from the accelerators, which it would fill."""
    try:
        tensorflow = importlib.import_module("tensorflow")
        tensorflow.config.set_visible_devices([], "GPU")
        return importlib.import_module("clu.metric_writers").SummaryWriter(str(directory))
    except ImportError as error:
        log.info("no TensorBoard (%s); to have it: pip install 'diffusion_jax[tf]'. metrics.jsonl has it all", error)
        return None


def progress(
    step: int,
    total: int,
    images_per_second: float,
    seconds_left: float,
    loss: float,
    next_checkpoint: int | None = None,
) -> str:
    """One line: how far, how good, how fast, how long, and the step of the next checkpoint."""
    parts = [
        f"step {step:,}/{total:,} ({math.floor(100 * step / total)} %)",
        f"loss {loss:.4g}",
        f"{per_second(images_per_second)} images/s",
        f"{duration(seconds_left)} left",
    ]
    if next_checkpoint is not None:
        parts.append(f"next checkpoint at {next_checkpoint:,}")
    return "  ".join(parts)


@dataclasses.dataclass
class _Row:
    module: str
    arrays: int = 0
    parameters: int = 0


def parameter_table(params: Any) -> str:
    """A row for each module of a network, net/MODULE: how many arrays (or shapes) it has, and elements in all."""
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
    """What a run says first: its parameters (arrays or shapes), its devices, where its files go."""
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
    """All that was reported, one dict a step, in order of steps.

    Lines of one step are put together. A run that resumed at an earlier step writes steps again: the later ones count,
    and what followed them before is dropped. A line that a kill left torn is passed over. Raises FileNotFoundError.
    """
    path = epath.Path(workdir).expanduser() / METRICS
    if not path.exists():
        raise FileNotFoundError(
            f"{workdir} holds no {METRICS}; train first: "
            f"python -m diffusion_jax.main train --config=CONFIG --workdir={workdir}"
        )
    by_step: dict[int, dict[str, Any]] = {}
    last_step = -1
    for line in path.read_text().splitlines():
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
    """The newest value reported under a name; None if there is none."""
    return next((record[name] for record in reversed(read_metrics(workdir)) if name in record), None)
