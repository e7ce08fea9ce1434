"""Figures of curves: arrays in; PNG, PDF or SVG files out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from diffusion_jax.runs.pictures import COLOURS, grid, log_axis, make_figure, save_figure, sequence_colours, whole_ticks

MARKERS = "osD^vP*X"


def losses(path: epath.PathLike, records: Sequence[Mapping[str, Any]], title: str, weights: str) -> None:
    """Draw the training and the held-out loss against the step.

    records: as `metric_log.read_metrics` returns them; the loss of the one step after a resume, a mean over no more, is
    left out. weights: name of the weights behind `heldout_loss`, such as "EMA 0.998".
    """
    timed = any("images_per_second" in r for r in records)
    records = [r for r in records if not timed or r["step"] == 1 or "loss" not in r or "images_per_second" in r]
    rates = [(r["step"], r["learning_rate"]) for r in records if "learning_rate" in r]
    figure, (axes, *lower) = make_figure(1, 7, 5.7 if rates else 4.5, dpi=120, ratios=(4, 1) if rates else (1,))
    shown: list[float] = []
    for name, label, colour, marker in (
        ("loss", "training", COLOURS[0], ""),
        ("heldout_loss", f"held-out ({weights})", COLOURS[1], "o"),
        ("heldout_loss_raw", "held-out (raw weights)", COLOURS[2], "."),
    ):
        points = [(r["step"], r[name]) for r in records if math.isfinite(r.get(name, math.nan))]
        if points:
            style = {"marker": marker if len(points) > 1 else "o", "markersize": 4, "linewidth": 1.2}
            axes.plot(*zip(*points, strict=True), label=label, color=colour, **style)
            shown += [value for _, value in points]
    _log_if_wide(axes, shown)
    axes.set(ylabel="loss", title=f"Loss of {title}")
    for panel in lower:
        panel.plot(*zip(*rates, strict=True), color=COLOURS[0], linewidth=1.2)
        panel.ticklabel_format(axis="y", scilimits=(-2, 3))
        panel.set(ylabel="learning rate", xlim=axes.get_xlim(), ylim=(0, None))
    for panel in (axes, *lower):
        whole_ticks(panel)
    (axes, *lower)[-1].set(xlabel="training step")
    if shown:
        axes.legend(frameon=False)
    save_figure(figure, path)


def bound_terms(path: epath.PathLike, curves: Mapping[str, np.ndarray], title: str) -> None:
    """Draw the terms of the bound against t, and their cumulative share. curves: from `variational.curves`."""
    figure, (left, right) = make_figure(2, 4.5, 4)
    t, terms = np.asarray(curves["t"]), np.asarray(curves["bits_per_dim"])
    _log_curve(left, t, terms)
    left.set(xlabel="start of the step, t", ylabel="term (bits/dim)", title="Terms of the bound")
    total = float(curves["prior_bits_per_dim"]) + terms.sum()
    right.plot(t[::-1], np.cumsum(terms[::-1]) / total, linewidth=1.5, color=COLOURS[0])
    right.set(xlabel="t", ylabel="share of the bound", title="Share of the steps from 0 to t", ylim=(0, 1.02))
    for axes in (left, right):
        axes.set_xlim(0, 1)
    figure.suptitle(title)
    save_figure(figure, path)


def rate_distortion(path: epath.PathLike, curves: Mapping[str, np.ndarray], title: str) -> None:
    """Draw distortion and rate against the reverse steps, and against each other; curves: of `variational.curves`.

    Reference: Ho et al. 2020, figure 5.
    """
    figure, panels = make_figure(3, 4, 3.9)
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
        whole_ticks(axes)
    figure.suptitle(title)
    save_figure(figure, path)


def scales(path: epath.PathLike, rows: Sequence[Mapping[str, float]], title: str) -> None:
    """Draw agreement with the requested class against diversity, a point for each guidance scale."""
    figure, (axes,) = make_figure(1, 6, 4.3)
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
    save_figure(figure, path)


def detection(
    path: epath.PathLike,
    histograms: Mapping[str, tuple[np.ndarray, np.ndarray]],
    titles: Mapping[str, str],
    extremes: Mapping[str, np.ndarray],
    levels: int,
) -> epath.Path:
    """Draw anomaly scores: a histogram panel per score, above rows of images [N,H,W,C].

    histograms: name of the score -> (scores of held-out images, scores of odd images). extremes: title of a row ->
    its images; other shapes are not drawn. Returns the path, with the suffix of the format.
    """
    columns, extra = 4, len(extremes) if next(iter(extremes.values())).ndim == 4 else 0
    rows = math.ceil(len(histograms) / columns)
    figure, panels = make_figure(columns, 3, 2.4 * rows + 0.9 * extra, ratios=[2.4] * rows + [0.9] * extra)
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
    return save_figure(figure, path)


def frechet_unit(features: str) -> str:
    """Return the unit of a Fréchet distance, in words."""
    units = {"pixels": "squared grey levels", "inception": "squared Inception features, the FID"}
    return units.get(features, f"squared {features} features")


def frontier(
    path: epath.PathLike,
    cells: Sequence[Mapping[str, Any]],
    title: str,
    heldout: float | None,
    features: str = "pixels",
) -> None:
    """Draw Fréchet distances with their intervals, and the SVM's confidence, against network calls.

    cells: as `frontier.read_cells` returns them. heldout: the Fréchet distance of held-out data, if there are any.
    """
    with_svm = any("svm_confidence_ratio" in cell for cell in cells)
    curves: dict[str, list[Mapping[str, Any]]] = {}
    for cell in cells:
        of_size = "" if cell["num_samples"] == cells[0]["num_samples"] else f", {cell['num_samples']:,} samples"
        curves.setdefault(f"{cell['sampler']}, {cell['grid']}{of_size}", []).append(cell)
    columns = 2 if with_svm else 1
    figure, panels = make_figure(columns, 6, 4.6 + 0.22 * math.ceil((len(curves) + 1) / (2 * columns)))
    for n, (label, curve) in enumerate(curves.items()):
        calls = [cell["network_calls"] for cell in curve]
        value = np.array([cell[f"frechet_{features}"] for cell in curve])
        ends = np.array([[cell.get(f"frechet_{end}", math.nan) for cell in curve] for end in ("low", "high")])
        style: dict[str, Any] = {"color": COLOURS[n % len(COLOURS)], "marker": MARKERS[n % len(MARKERS)]}
        style |= {"label": label, "markersize": 5, "linewidth": 1.2, "linestyle": ("-", ":")[n // len(COLOURS) % 2]}
        panels[0].errorbar(calls, value, abs(ends - value), capsize=3, **style)
        if with_svm:
            panels[1].plot(calls, [cell.get("svm_confidence_ratio", math.nan) for cell in curve], **style)
    if heldout is not None:
        panels[0].axhline(heldout, color="0.3", linestyle="--", linewidth=0.9, label="held-out data")
    shown = [
        cell[key] for cell in cells for key in ("frechet_low", f"frechet_{features}", "frechet_high") if key in cell
    ]
    log_axis(panels[0], "y", [*shown, *([] if heldout is None else [heldout])])
    panels[0].set(ylabel=f"Fréchet distance to the training data\n({frechet_unit(features)})")
    if with_svm:
        panels[1].axhline(1, color="0.3", linestyle="--", linewidth=0.9)
        panels[1].set(ylabel="SVM confidence, ratio to held-out data")
    for axes in panels:
        axes.set(xlabel="network calls per sample")
        log_axis(axes, "x", [cell["network_calls"] for cell in cells], ticks=True)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2 * columns, frameon=False)
    figure.suptitle(title)
    save_figure(figure, path)


def loss_by_time(
    path: epath.PathLike, records: Sequence[Mapping[str, Any]], title: str, bins: int = 10, most: int = 6
) -> None:
    """Draw the held-out loss against the time t.

    The evaluations drawn are evenly spaced in the run. most: number of evaluations at most. records: as
    `metric_log.read_metrics` returns them, some with heldout_loss_bin_0, …: the means over `bins` equal intervals
    of t.
    """
    prefix = "heldout_loss_bin_"
    evaluated = [record for record in records if any(name.startswith(prefix) for name in record)]
    chosen = np.unique(np.linspace(0, len(evaluated) - 1, min(most, len(evaluated))).round().astype(int))
    figure, (axes,) = make_figure(1, 6, 4.2)
    shown: list[float] = []
    for shade, i in zip(sequence_colours(len(chosen)), chosen, strict=True):
        values = np.array([evaluated[i].get(f"{prefix}{k}", math.nan) for k in range(bins)])
        label = f"step {evaluated[i]['step']:,}"
        axes.stairs(values, np.linspace(0, 1, bins + 1), baseline=None, color=shade, linewidth=1.5, label=label)
        shown += [value for value in values if math.isfinite(value)]
    _log_if_wide(axes, shown)
    axes.set(xlabel="time t (0: data, 1: noise)", ylabel="held-out loss", title=f"Loss by time, {title}", xlim=(0, 1))
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def series(
    path: epath.PathLike,
    points: Mapping[str, Sequence[tuple[float, ...]]],
    evaluated: Mapping[str, Sequence[tuple[float, ...]]],
    xlabel: str = "training step",
) -> None:
    """Draw small plots against the training step, one for each name.

    points: (step, value), as lines. evaluated: (step, value, low, high) of an evaluation, as points with their 95 %
    intervals; NaN without. xlabel: name of another quantity in place of the step.
    """
    names = list(dict.fromkeys([*points, *evaluated]))
    last = 1.05 * max(place[0] for places in (*points.values(), *evaluated.values()) for place in places)
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    figure, panels = make_figure(columns, 3.2, 2.4 * rows, rows)
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
        if xlabel == "training step":
            whole_ticks(axes, 4)
        if i >= len(names) - columns:
            axes.set_xlabel(xlabel, fontsize=8)
    for axes in panels[len(names) :]:
        axes.axis("off")
    save_figure(figure, path)


def entropy_bounds(path: epath.PathLike, curves: Mapping[str, np.ndarray], title: str, unit: str) -> None:
    """Draw entropy bounds, the model's entropy and the KL of each reverse step.

    curves: from `nonequilibrium.curves`. Reference: Sohl-Dickstein et al. 2015, eq. 20.
    """
    figure, (left, right) = make_figure(2, 4.5, 4)
    t = np.asarray(curves["t"])
    bounds = (curves["lower_bits"], curves["upper_bits"])
    left.fill_between(t, *bounds, alpha=0.35, linewidth=0, color=COLOURS[0], label="bounds of H(x_s | x_t)")
    left.plot(t, curves["model_bits"], color=COLOURS[1], linewidth=1.2, label="cross-entropy of the model")
    left.set(xlabel="start of the step, t", ylabel=f"entropy ({unit})", title="Entropy of the reverse steps")
    left.legend(fontsize=8, frameon=False)
    kl = np.asarray(curves["kl_bits"])
    _log_curve(right, t, kl)
    right.set(
        xlabel="start of the step, t", ylabel=f"KL ({unit})", title=f"KL of the reverse steps, sum {kl.sum():.3f}"
    )
    figure.suptitle(title)
    save_figure(figure, path)


def _log_if_wide(axes: Any, values: Sequence[float]) -> None:
    if values and min(values) > 0 and max(values) > 4 * min(values):
        log_axis(axes, "y", values)


def _log_curve(axes: Any, t: np.ndarray, values: np.ndarray) -> None:
    """Draw values on a logarithmic axis. Values that are not positive are drawn at the least positive value."""
    positive = np.maximum(values, np.min(values[values > 0], initial=1.0))
    axes.plot(t, positive, linewidth=1.2, color=COLOURS[0])
    log_axis(axes, "y", positive)
