"""Every picture that the package makes: samples side by side, and curves. Arrays in, PNG files out."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from diffusion_jax import files

TILE = 64
"""Pixels: images smaller than this are enlarged by a whole factor, to at least this size."""
BORDER = 2
"""Pixels between tiles."""
MOST = 400
"""Tiles that a picture shows at most."""


# Samples.


def picture(samples: np.ndarray, levels: int) -> np.ndarray:
    """Samples as one picture, uint8 [height, width] or [height, width, 3].

    samples: integers 0..levels-1 [N, H, W, C] give a grid of the first MOST, [N, D] one picture with a sample a row;
    floats (levels 0) [N, D] give a scatter plot, and [N, H, W, C] a grid of -1 (black) to 1 (white).
    """
    samples = np.asarray(samples)
    if levels == 0 and samples.ndim == 2:
        return scatter(samples)
    if levels == 0:
        samples, levels = _grey(samples), 256
    if levels > 1 and samples.ndim == 2:
        return grid(samples[None, :MOST, :, None], levels, tile=MOST)
    return grid(samples[:MOST], levels)


def _grey(samples: np.ndarray) -> np.ndarray:
    """Floats in [-1, 1], as images without grey levels are, in 256 levels; what is not a number becomes black."""
    return np.round((np.nan_to_num(samples, nan=-1.0).clip(-1, 1) + 1) * 127.5).astype(np.uint8)


def grid(samples: np.ndarray, levels: int, tile: int = TILE, columns: int = 0) -> np.ndarray:
    """Put images [N, H, W, C] of 0..levels-1 row by row into one picture, enlarged to `tile` if smaller.

    columns: images in a row; 0 makes the picture nearly square.

    One channel gives [height, width], three give [height, width, 3]; of any other number, the channels stand side by
    side in grey. Raises ValueError for another shape, or fewer than 2 levels.
    """
    if samples.ndim != 4 or not len(samples) or levels < 2:
        raise ValueError(f"a grid needs images [N, H, W, C], N > 0, of 2 or more levels, not {samples.shape}, {levels}")
    shades = np.round(samples.astype(np.float32) * (255 / (levels - 1))).clip(0, 255).astype(np.uint8)
    if shades.shape[-1] not in (1, 3):
        shades = np.concatenate(np.split(shades, shades.shape[-1], axis=-1), axis=2)
    factor = math.ceil(tile / max(shades.shape[1:3]))
    shades = shades.repeat(factor, axis=1).repeat(factor, axis=2)
    count, height, width, channels = shades.shape
    columns = columns or min(count, math.ceil(math.sqrt(count * height / width)))
    rows = math.ceil(count / columns)
    down, right = height + BORDER, width + BORDER
    pixels = np.full((rows * down + BORDER, columns * right + BORDER, channels), 128, np.uint8)
    for n, image in enumerate(shades):
        top, left = n // columns * down + BORDER, n % columns * right + BORDER
        pixels[top : top + height, left : left + width] = image
    return pixels[..., 0] if channels == 1 else pixels


def scatter(samples: np.ndarray) -> np.ndarray:
    """The first two coordinates of vectors [N, D], D > 1, as a scatter plot; a histogram if D = 1. uint8 [H, W, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), dpi=100, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.subplots()
    finite = samples[np.isfinite(samples[:, :2]).all(axis=1)].astype(np.float64)
    size = max(2.0, 2000 / max(1, len(finite)))
    if samples.shape[1] > 1:
        axes.scatter(finite[:, 0], finite[:, 1], s=size, alpha=0.5, linewidths=0)
        axes.set(xlabel="x0[0]", ylabel="x0[1]")
        axes.set_aspect("equal", adjustable="datalim")
    elif len(finite):
        axes.hist(finite[:, 0], bins=100, density=True)
        axes.set(xlabel="x0[0]", ylabel="density")
    lost = len(samples) - len(finite)
    axes.set_title(f"{len(samples):,} samples" + (f", {lost:,} of them not finite" if lost else ""))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_png(path: epath.PathLike, samples: np.ndarray, levels: int) -> None:
    """Write `picture(samples, levels)` as a PNG file, its directory made if need be."""
    write_png(epath.Path(path), picture(samples, levels))


def write_png(path: epath.Path, pixels: np.ndarray) -> None:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    files.save_bytes(path, buffer.getvalue())


def table(path: epath.PathLike, samples: np.ndarray, levels: int, rows: Sequence[str], title: str) -> None:
    """Draw images [R, C, H, W, channels] in R rows, or vectors [R, C, D] in R scatter plots; `rows` labels them."""
    from matplotlib.figure import Figure

    count, columns = samples.shape[:2]
    if samples.ndim == 3:
        figure = Figure(figsize=(2.2 * count, 2.6), dpi=100, layout="constrained")
        for axes, points, label in zip(figure.subplots(1, count, squeeze=False)[0], samples, rows, strict=True):
            axes.scatter(points[:, 0], points[:, min(1, points.shape[1] - 1)], s=6, linewidths=0)
            axes.set_title(label, fontsize=8)
            axes.tick_params(labelsize=6)
    else:
        if levels == 0:
            samples, levels = _grey(samples), 256
        whole = grid(samples.reshape(-1, *samples.shape[2:]), levels, columns=columns)
        height, width = whole.shape[0] / 100, whole.shape[1] / 100
        width = max(width + 1.2, 0.085 * len(title))  # room for the title
        figure = Figure(figsize=(width, height + 0.5), dpi=100, layout="constrained")
        axes = figure.subplots()
        axes.imshow(whole, cmap="gray", vmin=0, vmax=255)
        axes.set_yticks([(i + 0.5) * whole.shape[0] / count for i in range(count)], labels=list(rows), fontsize=8)
        axes.set_xticks([])
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


# Curves.


def losses(path: epath.PathLike, records: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw the training and the held-out loss against the step; records as `reporting.read_metrics` gives them."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    shown: list[float] = []
    for name, label, color, marker in (("loss", "training", "C0", ""), ("heldout_loss", "held out", "C1", "o")):
        points = [(r["step"], r[name]) for r in records if math.isfinite(r.get(name, math.nan))]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, color=color, marker=marker, markersize=4, linewidth=1)
            shown += [value for _, value in points]
    if shown and min(shown) > 0 and max(shown) > 4 * min(shown):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    axes.set(xlabel="training step", ylabel="loss", title=title)
    axes.grid(alpha=0.3, which="both")
    if shown:
        axes.legend()
    _save(figure, path)


def bound_terms(path: epath.PathLike, curves: Mapping[str, np.ndarray], title: str) -> None:
    """Draw the bound's terms step by step, and how much of it each share of the path takes.

    curves: as `evaluation.likelihood.curves` gives them.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    t, term = np.asarray(curves["t"]), np.asarray(curves["bits_per_dim"])
    left.plot(t, np.maximum(term, np.min(term[term > 0], initial=1.0)), linewidth=1)
    left.set(yscale="log", xlabel="t, where the step starts", ylabel="bits/dim of the step", title=title)
    total = float(curves["prior_bits_per_dim"]) + term.sum()
    right.plot(t[::-1], np.cumsum(term[::-1]) / total, linewidth=1.5)
    right.set(xlabel="t", ylabel="share of the bound", title="taken by the steps from 0 to t", ylim=(0, 1.02))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    _save(figure, path)


def rate_distortion(path: epath.PathLike, curves: Mapping[str, np.ndarray], title: str) -> None:
    """Draw distortion and rate against the steps sent, and one against the other. Source: Ho et al. 2020, figure 5.

    curves: as `evaluation.likelihood.curves` gives them.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8), dpi=120, layout="constrained")
    rate, rmse = np.asarray(curves["rate_bits_per_dim"]), np.asarray(curves["rmse"])
    sent = np.arange(len(rate))
    for axes, (x, y, xlabel, ylabel) in zip(
        figure.subplots(1, 3),
        [
            (sent, rmse, "reverse steps taken", "distortion (RMSE, 0 to 255)"),
            (sent, rate, "reverse steps taken", "rate (bits/dim)"),
            (rate, rmse, "rate (bits/dim)", "distortion (RMSE, 0 to 255)"),
        ],
        strict=True,
    ):
        axes.plot(x, y, linewidth=1.5)
        axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    _save(figure, path)


def scales(path: epath.PathLike, rows: Sequence[Mapping[str, float]], title: str) -> None:
    """Draw agreement with the class asked for against diversity, a point for each guidance scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    x, y = ([row[name] for row in rows] for name in ("class_diversity", "svm_agreement"))
    axes.plot(x, y, marker="o", markersize=4, linewidth=1)
    for row, place in zip(rows, zip(x, y, strict=True), strict=True):
        axes.annotate(f"w = {row['scale']:g}", place, textcoords="offset points", xytext=(5, -10), fontsize=8)
    axes.set(xlabel="diversity within a class (1: as the data)", ylabel="share of the class asked for", title=title)
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    _save(figure, path)


def frontier(path: epath.PathLike, cells: Sequence[Mapping[str, Any]], title: str, real: float) -> None:
    """Draw Fréchet figures with their intervals, and the confidence of an SVM where there is one, against calls.

    cells: the figures of each, as `frontier.read` gives them. real: the figure of held-out data.
    """
    from matplotlib.figure import Figure

    judged = [cell for cell in cells if "svm_confidence_ratio" in cell]
    figure = Figure(figsize=(12 if judged else 7, 4.5), dpi=110, layout="constrained")
    panels = figure.subplots(1, 2 if judged else 1, squeeze=False)[0]
    curves: dict[str, list[Mapping[str, Any]]] = {}
    for cell in cells:
        of_size = "" if cell["num_samples"] == cells[0]["num_samples"] else f", {cell['num_samples']:,} samples"
        curves.setdefault(f"{cell['sampler']}, {cell['grid']}{of_size}", []).append(cell)
    for n, (label, curve) in enumerate(curves.items()):
        calls = [cell["network_calls"] for cell in curve]
        value = np.array([cell["frechet_pixels"] for cell in curve])
        ends = np.array([[cell["frechet_low"], cell["frechet_high"]] for cell in curve]).T
        style: dict[str, Any] = {"label": label, "color": f"C{n % 10}", "marker": "osD^vP*X"[n % 8], "markersize": 5}
        panels[0].errorbar(calls, value, abs(ends - value), capsize=3, linewidth=1, **style)
        if judged:
            ratio = [cell.get("svm_confidence_ratio", math.nan) for cell in curve]
            panels[1].plot(calls, ratio, linewidth=1, **style)
    panels[0].axhline(real, color="k", linestyle="--", linewidth=0.8, label="held-out data")
    panels[0].set(yscale="log", ylabel="Fréchet distance to the training data", title=title)
    panels[0].yaxis.set_major_formatter("{x:g}")
    panels[0].yaxis.set_minor_formatter("{x:g}")
    if judged:
        panels[1].axhline(1, color="k", linestyle="--", linewidth=0.8)
        panels[1].set(ylabel="SVM confidence, ratio to held-out data")
    apart: list[float] = []  # the numbers of calls, as far as there is room for them
    for calls in sorted({cell["network_calls"] for cell in cells}):
        apart += [calls] if not apart or calls >= 1.2 * apart[-1] else []
    for axes in panels:
        axes.set(xscale="log", xlabel="network calls for one sample")
        axes.set_xticks(apart, labels=[f"{calls:g}" for calls in apart])
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.3, which="both")
    panels[0].legend(fontsize=8)
    _save(figure, path)


def series(points: Mapping[str, Sequence[tuple[int, float]]]) -> bytes:
    """Small plots of (step, value) side by side, one for each name, as a PNG."""
    from matplotlib.figure import Figure

    columns = min(4, len(points))
    rows = math.ceil(len(points) / columns)
    figure = Figure(figsize=(3 * columns, 2.2 * rows), dpi=100, layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, values) in zip(places, points.items(), strict=False):
        axes.plot(*zip(*values, strict=True), linewidth=1)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    for axes in places[len(points) :]:
        axes.axis("off")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def entropy_bounds(path: epath.PathLike, curves: Mapping[str, np.ndarray], title: str, unit: str) -> None:
    """Draw the entropy of each reverse step between its bounds, what the model needs, and the KL that is K's loss.

    curves: as `likelihood.nonequilibrium.curves` gives them. Source of the bounds: Sohl-Dickstein et al. 2015, eq. 20.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    t = np.asarray(curves["t"])
    left.fill_between(t, curves["lower_bits"], curves["upper_bits"], alpha=0.3, label="H(x_s | x_t) lies here")
    left.plot(t, curves["model_bits"], color="C1", linewidth=1, label="what the model needs")
    left.set(xlabel="t, where the step starts", ylabel=f"{unit} of the step", title=title)
    left.legend(fontsize=8)
    kl = np.asarray(curves["kl_bits"])
    right.plot(t, np.maximum(kl, np.min(kl[kl > 0], initial=1.0)), linewidth=1)
    right.set(xlabel="t", ylabel=unit, yscale="log", title=f"KL of the step; {kl.sum():.3f} in all")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    _save(figure, path)


def _save(figure: Any, path: epath.PathLike) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    path = epath.Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    files.save_bytes(path, buffer.getvalue())
