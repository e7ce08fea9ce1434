"""Pictures of samples and curves: arrays in, files out.

Grids of samples are PNG files; figures are PNG, PDF or SVG files, see `written_as`.
"""

import contextlib
import contextvars
import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from etils import epath

from diffusion_jax import files

TILE = 64
"""Pixels to which smaller images are enlarged, by a whole factor."""
BORDER = 2
"""Pixels between tiles."""
MOST = 400
"""Most tiles of a picture."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Palette of Okabe and Ito, whose colours the colour-blind can tell apart."""
MARKERS = "osD^vP*X"
DPI = 110
FORMATS = ("png", "pdf", "svg")
_format: contextvars.ContextVar[str] = contextvars.ContextVar("format", default="png")


@contextlib.contextmanager
def written_as(name: str) -> Iterator[None]:
    """Write figures in one of FORMATS within this context, whatever the suffix of their paths."""
    token = _format.set(name)
    try:
        yield
    finally:
        _format.reset(token)


# Samples.


def picture(samples: np.ndarray, levels: int) -> np.ndarray:
    """Return samples as one picture, uint8 [height, width] or [height, width, 3].

    samples: integers 0..levels-1 [N, H, W, C] give a grid of the first MOST images, [N, D] one image with a row per
    sample; floats (levels 0) [N, D] give a scatter plot, [N, H, W, C] a grid from -1 (black) to 1 (white). Raises
    FloatingPointError for images that are not finite.
    """
    samples = np.asarray(samples)
    if levels == 0 and samples.ndim == 2:
        return scatter(samples)
    if levels == 0:
        samples, levels = _grey(samples, samples.ndim - 3), 256
    if levels > 1 and samples.ndim == 2:
        return grid(samples[None, :MOST, :, None], levels, tile=MOST)
    return grid(samples[:MOST], levels)


def _grey(samples: np.ndarray, leading: int = 1) -> np.ndarray:
    """Return floats in [-1, 1] as 256 grey levels. leading: number of axes before those of an image."""
    check_finite(samples.reshape(-1, *samples.shape[leading:]))
    return np.round((samples.clip(-1, 1) + 1) * 127.5).astype(np.uint8)


def grid(samples: np.ndarray, levels: int, tile: int = TILE, columns: int = 0) -> np.ndarray:
    """Return images [N, H, W, C] of 0..levels-1 row by row as one picture, enlarged to `tile` if smaller.

    columns: images in a row; 0: a nearly square picture. One channel gives [height, width], three give [height, width,
    3]; other numbers of channels are placed side by side in grey. Raises ValueError for another shape, or fewer than 2
    levels, and FloatingPointError for images that are not finite.
    """
    if samples.ndim != 4 or not len(samples) or levels < 2:
        raise ValueError(
            f"a grid needs images [N, H, W, C], N > 0, of 2 or more levels (got {samples.shape}, {levels})"
        )
    check_finite(samples)
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
    """Return a scatter plot of the first two coordinates of vectors [N, D]; a histogram if D = 1. uint8 [H, W, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), dpi=100, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.subplots()
    finite = samples[np.isfinite(samples[:, :2]).all(axis=1)].astype(np.float64)
    if samples.shape[1] > 1:
        size = float(np.clip(2000 / max(1, len(finite)), 2, 80))
        axes.scatter(finite[:, 0], finite[:, 1], s=size, alpha=0.5, linewidths=0, color=COLOURS[0])
        axes.set(xlabel="first coordinate", ylabel="second coordinate")
        axes.set_aspect("equal", adjustable="datalim")
    elif len(finite):
        axes.hist(finite[:, 0], bins=100, density=True, color=COLOURS[0])
        axes.set(xlabel="value", ylabel="density")
    lost = len(samples) - len(finite)
    axes.set_title(f"{len(samples):,} samples" + (f", {lost:,} of them not finite" if lost else ""))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def check_finite(samples: np.ndarray) -> None:
    """Raise FloatingPointError, with their number, if samples [N, …] are not finite."""
    if samples.dtype.kind == "f" and (lost := np.count_nonzero(~np.isfinite(samples.reshape(len(samples), -1)).all(1))):
        raise FloatingPointError(f"{lost} of {len(samples)} samples are not finite")


def save_png(path: epath.PathLike, samples: np.ndarray, levels: int) -> None:
    """Write `picture(samples, levels)` as a PNG file; make its directory if necessary."""
    write_png(epath.Path(path), picture(samples, levels))


def write_png(path: epath.Path, pixels: np.ndarray) -> None:
    """Write pixels, uint8 [height, width] or [height, width, 3], as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    files.save_bytes(path, buffer.getvalue())


def table(path: epath.PathLike, samples: np.ndarray, levels: int, rows: Sequence[str], title: str) -> epath.Path:
    """Draw images [R, C, H, W, channels] in R labelled rows, or vectors [R, C, D] in R scatter plots.

    Returns the path, with the suffix of the format. Raises FloatingPointError for images that are not finite.
    """
    if samples.ndim == 3:
        return _scatter_row(path, samples, rows, title)
    from matplotlib.figure import Figure

    count, columns = samples.shape[:2]
    if levels == 0:
        samples, levels = _grey(samples, 2), 256
    whole = grid(samples.reshape(-1, *samples.shape[2:]), levels, columns=columns)
    height, width = whole.shape[:2]
    left, top, right, below = 12 + 7 * max(map(len, rows)), 34, 10, 8  # pixels, at a font size of 8 and 10
    total = (max(left + width + right, 20 + 8 * len(title)), top + height + below)
    figure = Figure(figsize=(total[0] / 100, total[1] / 100), dpi=100)
    axes = figure.add_axes((left / total[0], below / total[1], width / total[0], height / total[1]))
    axes.imshow(whole, cmap="gray", vmin=0, vmax=255, aspect="auto", interpolation="none")
    axes.set_yticks([(i + 0.5) * height / count for i in range(count)], labels=list(rows), fontsize=8)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.suptitle(title, fontsize=10, y=1 - 8 / total[1], va="top")
    return _save(figure, path)


def _scatter_row(path: epath.PathLike, samples: np.ndarray, labels: Sequence[str], title: str) -> epath.Path:
    figure, panels = _figure(len(labels), 2.3, 2.7)
    for axes, points, label in zip(panels, samples, labels, strict=True):
        axes.scatter(points[:, 0], points[:, min(1, points.shape[1] - 1)], s=6, linewidths=0, color=COLOURS[0])
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_title(label, fontsize=9)
        axes.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=10)
    return _save(figure, path)


# Curves.


def losses(path: epath.PathLike, records: Sequence[Mapping[str, Any]], title: str, weights: str) -> None:
    """Draw the training and the held-out loss against the step.

    records: as `metric_log.read_metrics` returns them. weights: those of `heldout_loss`, such as "EMA 0.998".
    """
    rates = [(r["step"], r["learning_rate"]) for r in records if "learning_rate" in r]
    figure, (axes, *lower) = _figure(1, 7, 5.7 if rates else 4.5, dpi=120, ratios=(4, 1) if rates else (1,))
    shown: list[float] = []
    for name, label, colour, marker in (
        ("loss", "training", COLOURS[0], ""),
        ("heldout_loss", f"held-out ({weights})", COLOURS[1], "o"),
        ("heldout_loss_raw", "held-out (raw weights)", COLOURS[2], "."),
    ):
        points = [(r["step"], r[name]) for r in records if math.isfinite(r.get(name, math.nan))]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, color=colour, marker=marker, markersize=4, linewidth=1.2)
            shown += [value for _, value in points]
    if shown and min(shown) > 0 and max(shown) > 4 * min(shown):
        _log_axis(axes, "y", shown)
    axes.set(ylabel="loss", title=f"Loss of {title}")
    for panel in lower:
        panel.plot(*zip(*rates, strict=True), color=COLOURS[0], linewidth=1.2)
        panel.ticklabel_format(axis="y", scilimits=(-2, 3))
        panel.set(ylabel="learning rate", xlim=axes.get_xlim(), ylim=(0, None))
    for panel in (axes, *lower):
        _whole_ticks(panel)
    (axes, *lower)[-1].set(xlabel="training step")
    if shown:
        axes.legend(frameon=False)
    _save(figure, path)


def bound_terms(path: epath.PathLike, curves: Mapping[str, np.ndarray], title: str) -> None:
    """Draw the terms of the bound against t, and their cumulative share; curves: those of `variational.curves`."""
    figure, (left, right) = _figure(2, 4.5, 4)
    t, terms = np.asarray(curves["t"]), np.asarray(curves["bits_per_dim"])
    positive = np.maximum(terms, np.min(terms[terms > 0], initial=1.0))
    left.plot(t, positive, linewidth=1.2, color=COLOURS[0])
    _log_axis(left, "y", positive)
    left.set(xlabel="start of the step, t", ylabel="term (bits/dim)", title="Terms of the bound")
    total = float(curves["prior_bits_per_dim"]) + terms.sum()
    right.plot(t[::-1], np.cumsum(terms[::-1]) / total, linewidth=1.5, color=COLOURS[0])
    right.set(xlabel="t", ylabel="share of the bound", title="Share of the steps from 0 to t", ylim=(0, 1.02))
    for axes in (left, right):
        axes.set_xlim(0, 1)
    figure.suptitle(title)
    _save(figure, path)


def rate_distortion(path: epath.PathLike, curves: Mapping[str, np.ndarray], title: str) -> None:
    """Draw distortion and rate against the reverse steps, and against each other; curves: of `variational.curves`.

    Reference: Ho et al. 2020, figure 5.
    """
    figure, panels = _figure(3, 4, 3.9)
    rate, rmse = np.asarray(curves["rate_bits_per_dim"]), np.asarray(curves["rmse"])
    steps = np.arange(len(rate))
    distortion = "distortion (RMSE, 0 to 255)"
    for axes, (x, y, xlabel, ylabel, name) in zip(
        panels,
        [
            (steps, rmse, "reverse steps", distortion, "Distortion"),
            (steps, rate, "reverse steps", "rate (bits/dim)", "Rate"),
            (rate, rmse, "rate (bits/dim)", distortion, "Rate and distortion"),
        ],
        strict=True,
    ):
        axes.plot(x, y, linewidth=1.5, color=COLOURS[0])
        axes.set(xlabel=xlabel, ylabel=ylabel, title=name, ylim=(0, None))
    for axes in panels[:2]:
        _whole_ticks(axes)
    figure.suptitle(title)
    _save(figure, path)


def scales(path: epath.PathLike, rows: Sequence[Mapping[str, float]], title: str) -> None:
    """Draw agreement with the requested class against diversity, a point for each guidance scale."""
    figure, (axes,) = _figure(1, 6, 4.3)
    x, y = ([row[name] for row in rows] for name in ("class_diversity", "svm_agreement"))
    axes.plot(x, y, marker="o", markersize=5, linewidth=1.2, color=COLOURS[0])
    labels: dict[tuple[float, float], list[str]] = {}
    for row, place in zip(rows, zip(x, y, strict=True), strict=True):
        labels.setdefault(place, []).append(f"{row['scale']:g}")
    for place, names in labels.items():
        axes.annotate(f"w = {', '.join(names)}", place, textcoords="offset points", xytext=(6, -11), fontsize=8)
    axes.set(xlabel="variance within a class, relative to the data", ylabel="samples of the requested class (share)")
    axes.set(title=title, xlim=(0, 1.15 * max(1.0, *x)), ylim=(0, 1.05))
    axes.axvline(1, color="0.4", linestyle="--", linewidth=0.8)
    _save(figure, path)


def detection(
    path: epath.PathLike,
    histograms: Mapping[str, tuple[np.ndarray, np.ndarray]],
    titles: Mapping[str, str],
    extremes: Mapping[str, np.ndarray],
    levels: int,
) -> None:
    """Draw anomaly scores: a histogram panel per score, above rows of images [N,H,W,C].

    histograms: name of the score -> (scores of held-out images, scores of odd images). extremes: title of a row ->
    its images; other shapes are not drawn.
    """
    columns, extra = 4, len(extremes) if next(iter(extremes.values())).ndim == 4 else 0
    rows = math.ceil(len(histograms) / columns)
    figure, panels = _figure(columns, 3, 2.4 * rows + 0.9 * extra, ratios=[2.4] * rows + [0.9] * extra)
    for axes, (name, (normal, odd)) in zip(panels, histograms.items(), strict=False):
        both = np.concatenate([normal, odd])
        low, high = np.quantile(both, [0.005, 0.995])
        bins = np.linspace(low, high, 40)
        for values, label, colour in ((normal, "held-out", COLOURS[0]), (odd, "odd", COLOURS[1])):
            axes.hist(values.clip(bins[0], bins[-1]), bins, density=True, alpha=0.6, label=label, color=colour)
        axes.set_title(titles[name], fontsize=9)
        axes.set(xlabel="score", yticks=[])
    panels[0].legend(fontsize=8)
    for axes in panels[len(histograms) :]:
        axes.set_axis_off()
    for row, (name, images) in enumerate(list(extremes.items())[:extra]):
        strip = figure.add_subplot(panels[0].get_gridspec()[rows + row, :])
        strip.imshow(grid(images, levels, columns=len(images)), cmap="gray", vmin=0, vmax=255, interpolation="none")
        strip.set_title(name, fontsize=9)
        strip.set_axis_off()
    _save(figure, path)


def frechet_unit(features: str) -> str:
    """Return the unit of a Fréchet distance, in words."""
    units = {"pixels": "squared grey levels", "inception": "squared Inception features, the FID"}
    return units.get(features, f"squared {features} features")


def frontier(
    path: epath.PathLike, cells: Sequence[Mapping[str, Any]], title: str, heldout: float, features: str = "pixels"
) -> None:
    """Draw Fréchet distances with their intervals, and the SVM's confidence, against network calls.

    cells: as `frontier.read_cells` returns them. heldout: the Fréchet distance of held-out data.
    """
    with_svm = any("svm_confidence_ratio" in cell for cell in cells)
    curves: dict[str, list[Mapping[str, Any]]] = {}
    for cell in cells:
        of_size = "" if cell["num_samples"] == cells[0]["num_samples"] else f", {cell['num_samples']:,} samples"
        curves.setdefault(f"{cell['sampler']}, {cell['grid']}{of_size}", []).append(cell)
    columns = 2 if with_svm else 1
    figure, panels = _figure(columns, 6, 4.6 + 0.22 * math.ceil((len(curves) + 1) / (2 * columns)))
    for n, (label, curve) in enumerate(curves.items()):
        calls = [cell["network_calls"] for cell in curve]
        value = np.array([cell[f"frechet_{features}"] for cell in curve])
        ends = np.array([[cell.get(f"frechet_{end}", math.nan) for cell in curve] for end in ("low", "high")])
        style: dict[str, Any] = {"color": COLOURS[n % len(COLOURS)], "marker": MARKERS[n % len(MARKERS)]}
        style |= {"label": label, "markersize": 5, "linewidth": 1.2, "linestyle": ("-", ":")[n // len(COLOURS) % 2]}
        panels[0].errorbar(calls, value, abs(ends - value), capsize=3, **style)
        if with_svm:
            panels[1].plot(calls, [cell.get("svm_confidence_ratio", math.nan) for cell in curve], **style)
    panels[0].axhline(heldout, color="0.3", linestyle="--", linewidth=0.9, label="held-out data")
    shown = [
        cell[key] for cell in cells for key in ("frechet_low", f"frechet_{features}", "frechet_high") if key in cell
    ]
    _log_axis(panels[0], "y", [heldout, *shown])
    panels[0].set(ylabel=f"Fréchet distance to the training data\n({frechet_unit(features)})")
    if with_svm:
        panels[1].axhline(1, color="0.3", linestyle="--", linewidth=0.9)
        panels[1].set(ylabel="SVM confidence, ratio to held-out data")
    for axes in panels:
        axes.set(xlabel="network calls per sample")
        _log_axis(axes, "x", [cell["network_calls"] for cell in cells], ticks=True)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2 * columns, frameon=False)
    figure.suptitle(title)
    _save(figure, path)


def loss_by_time(path: epath.PathLike, records: Sequence[Mapping[str, Any]], title: str, most: int = 6) -> None:
    """Draw the held-out loss against the time t, for evaluations evenly spaced in the run.

    most: number of evaluations at most. records: as `metric_log.read_metrics` returns them, some with
    heldout_loss_bin_0, …: the means over intervals of t.
    """
    prefix = "heldout_loss_bin_"
    evaluated = [record for record in records if any(name.startswith(prefix) for name in record)]
    chosen = np.unique(np.linspace(0, len(evaluated) - 1, min(most, len(evaluated))).round().astype(int))
    bins = 1 + max(int(name.removeprefix(prefix)) for r in evaluated for name in r if name.startswith(prefix))
    figure, (axes,) = _figure(1, 6, 4.2)
    shown: list[float] = []
    for shade, i in zip(_shades(len(chosen)), chosen, strict=True):
        values = np.array([evaluated[i].get(f"{prefix}{k}", math.nan) for k in range(bins)])
        label = f"step {evaluated[i]['step']:,}"
        axes.stairs(values, np.linspace(0, 1, bins + 1), baseline=None, color=shade, linewidth=1.5, label=label)
        shown += [value for value in values if math.isfinite(value)]
    if shown and min(shown) > 0 and max(shown) > 4 * min(shown):
        _log_axis(axes, "y", shown)
    axes.set(xlabel="time t (0: data, 1: noise)", ylabel="held-out loss", title=f"Loss by time, {title}", xlim=(0, 1))
    axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def series(
    path: epath.PathLike,
    points: Mapping[str, Sequence[tuple[float, ...]]],
    evaluated: Mapping[str, Sequence[tuple[float, ...]]],
) -> None:
    """Draw small plots against the training step, one for each name.

    points: (step, value), as lines. evaluated: (step, value, low, high) of an evaluation, as points with their 95 %
    intervals; NaN without.
    """
    names = list(dict.fromkeys([*points, *evaluated]))
    last = 1.05 * max(place[0] for places in (*points.values(), *evaluated.values()) for place in places)
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    figure, panels = _figure(columns, 3.2, 2.4 * rows, rows)
    for i, (axes, name) in enumerate(zip(panels, names, strict=False)):
        if name in points:
            axes.plot(*zip(*points[name], strict=True), linewidth=1.2, color=COLOURS[0])
        if name in evaluated:
            step, value, *ends = np.array(evaluated[name]).T
            axes.errorbar(step, value, np.abs(ends - value), fmt="o", markersize=4, capsize=3, color=COLOURS[1])
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.ticklabel_format(axis="y", useOffset=False, scilimits=(-3, 6))
        axes.yaxis.get_offset_text().set_fontsize(7)
        axes.set_xlim(0, last)
        _whole_ticks(axes, 4)
        if i >= len(names) - columns:
            axes.set_xlabel("training step", fontsize=8)
    for axes in panels[len(names) :]:
        axes.axis("off")
    _save(figure, path)


def entropy_bounds(path: epath.PathLike, curves: Mapping[str, np.ndarray], title: str, unit: str) -> None:
    """Draw entropy bounds, the model's entropy and the KL of each reverse step.

    curves: those of `nonequilibrium.curves`. Reference: Sohl-Dickstein et al. 2015, eq. 20.
    """
    figure, (left, right) = _figure(2, 4.5, 4)
    t = np.asarray(curves["t"])
    bounds = (curves["lower_bits"], curves["upper_bits"])
    left.fill_between(t, *bounds, alpha=0.35, linewidth=0, color=COLOURS[0], label="bounds of H(x_s | x_t)")
    left.plot(t, curves["model_bits"], color=COLOURS[1], linewidth=1.2, label="cross-entropy of the model")
    left.set(xlabel="start of the step, t", ylabel=f"entropy ({unit})", title="Entropy of the reverse steps")
    left.legend(fontsize=8, frameon=False)
    kl = np.asarray(curves["kl_bits"])
    positive = np.maximum(kl, np.min(kl[kl > 0], initial=1.0))
    right.plot(t, positive, linewidth=1.2, color=COLOURS[0])
    _log_axis(right, "y", positive)
    right.set(
        xlabel="start of the step, t", ylabel=f"KL ({unit})", title=f"KL of the reverse steps, sum {kl.sum():.3f}"
    )
    figure.suptitle(title)
    _save(figure, path)


# Parts of a figure.


def _figure(
    columns: int, width: float, height: float, rows: int = 1, dpi: int = DPI, ratios: Sequence[float] = ()
) -> tuple[Any, list[Any]]:
    """Return a figure and its panels.

    width: inches of a panel, height: of the figure. ratios: relative heights of the rows, in place of their number.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height), dpi=dpi, layout="constrained")
    rows, heights = (len(ratios), ratios) if ratios else (rows, None)
    panels = list(figure.subplots(rows, columns, squeeze=False, height_ratios=heights).ravel())
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _log_axis(axes: Any, name: str, values: Sequence[float] | np.ndarray, ticks: bool = False) -> None:
    """Make an axis logarithmic, with plain numbers at 1, 2, 5 or at powers of ten.

    ticks: at the values instead, as far as there is room.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    axis = getattr(axes, f"{name}axis")
    axes.set(**{f"{name}scale": "log"})
    axis.set_minor_formatter(NullFormatter())
    if ticks:
        apart: list[float] = []
        for value in sorted(set(values)):
            apart += [value] if not apart or value >= 1.25 * apart[-1] else []
        axis.set_ticks(apart, labels=[f"{value:g}" for value in apart])
        axis.set_minor_locator(NullLocator())
        return
    finite = [value for value in values if value > 0]
    decades = math.log10(max(finite) / min(finite)) if finite else 0
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,), numticks=12))
    axis.set_major_formatter("{x:g}")


def _whole_ticks(axes: Any, most: int | Literal["auto"] = "auto") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=most, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _shades(count: int) -> list[Any]:
    """Return colours from light to dark that the colour-blind can tell apart."""
    from matplotlib import colormaps

    return [colormaps["cividis"](0.85 * (1 - i / max(1, count - 1))) for i in range(count)]


def _save(figure: Any, path: epath.PathLike) -> epath.Path:
    """Write a figure in the format of `written_as`; return its path, with the suffix of the format.

    Names of runs and classes may hold any character: "$" starts no formula, and letters that the font lacks are boxes.
    """
    from matplotlib import rc_context
    from matplotlib.text import Text

    name = _format.get()
    path, buffer = epath.Path(path).expanduser().with_suffix(f".{name}"), io.BytesIO()
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with rc_context({"pdf.fonttype": 42}), warnings.catch_warnings():  # fonts that journals accept
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(buffer, format=name)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.save_bytes(path, buffer.getvalue())
    return path
