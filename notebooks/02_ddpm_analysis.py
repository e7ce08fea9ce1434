# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: -jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2. Analysis of a trained DDPM
#
# The first notebook trained nothing. This one analyses trained models: where their bits go, step by step, what a
# receiver sees while the bits arrive, which images are expensive, and which choices of Ho et al. 2020 matter. It only
# reads files, so it runs in seconds. These commands make the files, from the root of the repository:
#
#     python -m diffusion_jax.main train    --config=configs/digits.py --workdir=runs/digits
#     python -m diffusion_jax.main evaluate --workdir=runs/digits --likelihood=vlb
#     python -m diffusion_jax.main show     --workdir=runs/digits
#     # the same three for a model trained for likelihood: configs/digits_vlb.py, runs/digits_vlb
#     python -m diffusion_jax.main sweep    --sweep=configs/sweeps/ddpm_table2.py:digits --workdir=runs/table2_digits
#     python -m diffusion_jax.main sweep    --sweep=configs/sweeps/iddpm_table1.py:digits --workdir=runs/table1_digits
#
# The environment variables `RUN`, `LIKELIHOOD_RUN` and `SWEEPS` name other directories. Any runs on one set of images
# will do; the second run and the sweeps are optional. Statements about *these* runs are computed in the cell above
# them.

# %%
import json
import logging
import os
import pathlib
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown, display
from ml_collections import ConfigDict

import diffusion_jax
from diffusion_jax.analysis import comparison, sweeps
from diffusion_jax.experiment import sources, wiring
from diffusion_jax.likelihood import variational
from diffusion_jax.process.base import level
from diffusion_jax.runs.pictures import grid
from diffusion_jax.sampling import loop, progressive
from diffusion_jax.training import checkpoints

plt.rcParams.update({"figure.dpi": 96, "figure.constrained_layout.use": True, "axes.grid": True, "grid.alpha": 0.3})
logging.getLogger("diffusion_jax").setLevel(logging.ERROR)  # remarks that name folders of one machine
ROOT = pathlib.Path(diffusion_jax.__file__).parent.parent


def places(variable, default):
    """The folders that an environment variable names; relative ones start at the root of the repository."""
    return [ROOT / path for path in os.environ.get(variable, default).split(os.pathsep)]


class Evaluated(NamedTuple):
    """A run, and what `evaluate --likelihood=vlb` and `show` have found out about it."""

    name: str
    config: ConfigDict
    experiment: wiring.Experiment
    figures: dict[str, Any]
    bound: dict[str, np.ndarray]
    """vlb.npz; "t" falls, so that steps come in the order in which they are taken, from noise to data."""
    shown: dict[str, np.ndarray]
    """progressive.npz; empty if there is none."""


def read(run):
    """The newest evaluated checkpoint of a run."""
    folder = max((path.parent for path in run.glob("evaluation/*/vlb.npz")), key=os.path.getmtime)
    config = ConfigDict(checkpoints.read_config(str(run), int(folder.name.split("-")[0])))
    arrays = [dict(np.load(path)) if path.exists() else {} for path in (folder / "vlb.npz", folder / "progressive.npz")]
    return Evaluated(run.name, config, wiring.build(config), json.loads((folder / "figures.json").read_text()), *arrays)


runs = []
for run in places("RUN", "runs/digits") + places("LIKELIHOOD_RUN", "runs/digits_vlb"):
    if any(run.glob("evaluation/*/vlb.npz")):
        runs.append(read(run))
    else:
        print(f"{run.name}: no bound to read; make it by the commands above, or go on without")
if not runs:
    raise FileNotFoundError("there is no run to read: make one by the commands above, or name it in RUN")
grids = []
for directory in places("SWEEPS", f"runs/table2_digits{os.pathsep}runs/table1_digits"):
    if (directory / sweeps.GRID).is_file():
        grids.append(directory)
    else:
        print(f"{directory.name}: no sweep to read; make it by the commands above, or go on without")

for run in runs:
    c = run.config
    print(
        f"{run.name}: {c.train_steps:,} steps of training, loss {c.loss.name}, schedule {c.schedule.name}, variance "
        f"{c.prediction.variance}; bound of {len(run.bound['t']):,} steps, {len(run.bound['mse'])} held-out images, "
        f"decoder {run.figures['decoder']}, x0 {'clipped' if run.figures['bound_clip_x0'] else 'as predicted'}"
    )

config = runs[0].config
dims = int(np.prod(config.data.shape))
train, heldout = (sources.source(config, split) for split in ("train", "heldout"))
images, label = heldout.read(np.arange(len(runs[0].bound["mse"])))
mean = train.read(np.arange(min(train.size, 10_000)))[0].mean(0)
of_mean = float(np.sqrt(np.mean((images - mean) ** 2)) * 255 / (config.data.levels - 1))  # RMSE of always guessing it

# %% [markdown]
# ## 1. The bound, term by term
#
# $-\log p(x_0)$ is at most $L_T + \sum_k L_{k-1}$ (Ho et al. 2020, eq. 5): $L_T$ for $x_1$, one KL per step, and for
# the last step, to $x_0$ itself, the bits of a decoder of grey levels. The terms before that step are the *rate*, the
# last one is the *distortion*: the bits of the grey levels that are still missing. Divided by the number of pixels,
# these are bits/dim. The baseline is one histogram per pixel.

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 3.4), width_ratios=[3, 2])
print(f"{'bits/dim':18}{'bound':>17}{'= L_T':>11}{'+ rate':>9}{'+ distortion':>14}{'baseline':>10}")
for i, run in enumerate(runs):
    f, t, term = run.figures, run.bound["t"], run.bound["bits_per_dim"]
    error = run.bound["bits_per_dim_stderr"]
    axes[0].loglog(t, term, color=f"C{i}", label=run.name)
    axes[0].fill_between(t, np.maximum(term - error, term / 10), term + error, color=f"C{i}", alpha=0.3, linewidth=0)
    steps, rest = f["rate_bits_per_dim"] - f["prior_bits_per_dim"], f["distortion_bits_per_dim"]
    axes[1].barh(i, steps, color=f"C{i}")
    axes[1].barh(i, rest, left=steps, color=f"C{i}", alpha=0.5)
    axes[1].text(steps / 50, i, f"rate {steps:.2f} + distortion {rest:.2f}", color="white", va="center")
    axes[1].plot([f["baseline_bits_per_dim"]] * 2, [i - 0.45, i + 0.45], "k--")
    total = f"{f['bits_per_dim']:.3f} ± {f['bits_per_dim_stderr']:.3f}"
    print(
        f"{run.name:18}{total:>17}{f['prior_bits_per_dim']:11.1e}{steps:9.3f}{rest:14.3f}"
        f"{f['baseline_bits_per_dim']:10.3f}"
    )
axes[0].set(xlabel="t, where the step starts", ylabel="bits/dim of the step", title="the terms of the bound")
axes[0].legend()
axes[1].set(xlabel="bits/dim", yticks=range(len(runs)), yticklabels=[run.name for run in runs])
axes[1].set_title("their sum; dashed: independent pixels")
axes[1].invert_yaxis()
axes[1].grid(axis="y", alpha=0)

# %% [markdown]
# The left-most point of each curve is the decoder, the distortion in the right panel. The schedule determines how the
# bits are divided between the decoder and the last KLs: with less noise at the last level, more of the grey levels has
# been sent before.

# %% [markdown]
# ## 2. Where the bits go, and their effect
#
# On CIFAR-10, Ho et al. found that 1.66 of 1.78 bits/dim of rate are sent in the last tenth of the reverse steps, in
# which the error of the picture falls from 12 to 1 of 255: mostly imperceptible. Here are the same quantities for these
# runs. The *distortion* of a receiver is the root mean square error (RMSE) of $\hat x_0(x_t)$, in 255ths of the range.
# Without any information the best guess is the mean image (dotted). A network that predicts the noise may start far
# above it, since at $t = 1$ its errors are amplified most (first notebook, section 6); the cost in bits is on the left.

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 3.3))
for i, run in enumerate(runs):
    term, rmse, count = run.bound["bits_per_dim"], run.bound["rmse"], len(run.bound["t"])
    total = term.sum() + run.bound["prior_bits_per_dim"]
    sent = np.append(run.bound["rate_bits_per_dim"], total) / total  # before each step, and in the end
    taken = np.arange(count + 1) / count
    noise = np.exp(-0.5 * level(run.experiment.schedule(None), np.float32(run.bound["t"])).logsnr)
    axes[0].plot(taken, sent, color=f"C{i}", label=run.name)
    axes[1].plot(taken[:-1], rmse, color=f"C{i}", label=run.name)
    axes[2].semilogx(noise, sent[:-1], color=f"C{i}", label=run.name)
    last = count - max(1, round(count / 10))
    print(
        f"{run.name}: the last {count - last} of {count} steps take {1 - sent[last]:.1%} of the bits; the RMSE falls "
        f"from {rmse[0]:.1f} to {rmse[last]:.1f} before them, and to {rmse[-1]:.1f} in them"
    )
    half = min(np.searchsorted(sent, 0.5), count - 1)
    print(f"{'':{len(run.name)}}  half of the bits have been sent after {half} steps, at RMSE {rmse[half]:.1f}")
for axis in axes[:2]:
    axis.axvspan(0.9, 1, color="k", alpha=0.08)
    axis.set(xlabel="share of the reverse steps taken", ylim=(0, None))
axes[0].set(title="share of the bound's bits sent")
axes[1].set(title="distortion then (RMSE, of 255)", ylim=(0, 2.2 * of_mean))
axes[1].axhline(of_mean, color="k", linestyle=":")
axes[2].set(title="share of the bits sent", xlabel="noise that is left, sigma/alpha", ylim=(0, None))
axes[0].legend(loc="upper left")
axes[2].invert_xaxis()

# %% [markdown]
# The printed lines have the share of the bits in the last tenth of the steps (shaded) and their effect on the error,
# then the same for the second half of the *bits*. The schedule determines the number of steps in the expensive part, so
# two schedules are better compared against the remaining noise (right). Below: the predicted pictures near the end of
# the path, and the effect of the remaining bits.


# %%
def tiles(axis, images, levels, columns, title="", rows=()):
    """Tile images [N,H,W,C] on an axis, row by row, with a label for each row."""
    picture = grid(np.asarray(images), levels, tile=32, columns=columns)
    axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set_title(title, fontsize="medium")
    axis.set_xticks([])
    axis.set_yticks([(i + 0.5) * len(picture) / len(rows) for i in range(len(rows))], rows, fontsize="small")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.grid(False)


def starts(run, number):
    """t where each of `number` parts of the sampler's grid begins, the levels of the pictures of `main show`."""
    return [float(part.at.t[0]) for part in progressive.parts(run.experiment.sampler.coefficients(None), number)]


def sent_at(run, t):
    """The rate in bits/dim that has been sent at t, and the RMSE there."""
    place = np.argmin(np.abs(run.bound["t"] - t))
    return float(run.bound["rate_bits_per_dim"][place]), float(run.bound["rmse"][place])


pictured = [run for run in runs if run.shown]
for run in pictured:
    figure, axis = plt.subplots(figsize=(6.5, 2.6))
    guess, x0 = (run.shown["progressive_decoding"][i].astype(int) for i in (-2, -1))
    t = starts(run, 10)[-1]
    share = sent_at(run, t)[0] / run.figures["bits_per_dim"]
    tiles(
        axis,
        np.concatenate([guess, x0, np.abs(x0 - guess)]),
        run.config.data.levels,
        len(x0),
        f"{run.name}: {share:.0%} of the bits sent at t = {t:.2f}",
        ["guess", "x0", "|x0 - guess|"],
    )

# %% [markdown]
# Bits for invisible detail are the motivation for *latent* diffusion: an autoencoder drops them first, in one step, and
# the capacity of the diffusion model goes to the coarse part that determines the content. The bound weighs all bits
# equally; perception does not.

# %% [markdown]
# ## 3. Rate and distortion
#
# Without reference to steps: how well does a receiver know the image after so many bits? This is the curve of Ho et al.
# 2020, figure 5, in which models with different schedules are compared point by point.

# %%
figure, axis = plt.subplots(figsize=(6.5, 3.4))
for i, run in enumerate(runs):
    axis.plot(run.bound["rate_bits_per_dim"], run.bound["rmse"], color=f"C{i}", label=run.name)
    axis.plot(run.bound["rate_bits_per_dim"][-1], run.bound["rmse"][-1], "o", color=f"C{i}")
axis.set(xlabel="rate, bits/dim", ylabel="distortion (RMSE, of 255)", ylim=(0, 2.2 * of_mean))
axis.axhline(of_mean, color="k", linestyle=":", label="mean of training images")
axis.legend(title="dot: where the decoder takes over")

half_a_level = 127.5 / (config.data.levels - 1)
limits = 64, 48, 32, 16, half_a_level
print(f"RMSE of the mean of the training images: {of_mean:.1f}; half a step of the grey levels: {half_a_level:.1f}")
print("rate at RMSE below  " + "".join(f"{limit:>8.0f}" for limit in limits) + "   share of the bits still to come")
for run in runs:
    below = [run.bound["rate_bits_per_dim"][run.bound["rmse"] < limit] for limit in limits]
    told = "".join(f"{rate[0]:8.3f}" if len(rate) else f"{'never':>8}" for rate in below)
    to_come = 1 - np.append(below[-1], run.figures["bits_per_dim"])[0] / run.figures["bits_per_dim"]
    print(f"{run.name:20}{told}{to_come:34.0%}")
for run in runs:
    if run.config.prediction.variance == "fixed_large":
        row = loop.coefficients(
            run.experiment.process, run.experiment.schedule(None), run.bound["t"]
        )  # all steps but the last
        excess = row.log_var_large - row.log_var_small
        price = 0.5 * np.sum(excess + np.exp(-excess) - 1) / np.log(2)
        print(f"{run.name}: its large variance alone costs {price:.3f} bits/dim, were every x0 predicted exactly")

# %% [markdown]
# On CIFAR-10 the bend is sharp: from RMSE 67.6 to 12.0 in the first 0.12 of 1.78 bits/dim. An image of 64 pixels has
# less redundancy than one of 3,072. Below an error of half a grey level, rounding would mostly give the image, and the
# cost of a perfect denoiser, for which other greys have no probability, would approach zero. The bits that a model
# still uses there are the price of its small errors, relative to the even smaller noise, and of a variance that is not
# the exact one. Hence a model can generate good digits and have a bound above that of independent pixels (section 1).

# %% [markdown]
# ## 4. What a receiver sees
#
# *Progressive decoding* shows held-out images $x_0$ as predicted from $x_t \sim q(x_t|x_0)$ for increasing rate: every
# diffusion model is a lossy codec. *Progressive generation* is the same for samples: the model generates the bits, the
# coarse ones first (Ho et al. 2020, figure 6).

# %%
for run in [run for run in runs if not run.shown]:
    print(f"{run.name}: no pictures to show; make them by main show, or go on without")
for run in pictured[:1]:
    levels, count = run.config.data.levels, run.shown["progressive_decoding"].shape[1]
    times = starts(run, 10)
    told = ["t = {:.2f}:  {:.3f} bits/dim, RMSE {:.0f}".format(t, *sent_at(run, t)) for t in times]
    labels = {
        "progressive_decoding": ("decoding held-out digits", [*told, "x0"]),
        "progressive_generation": ("generating samples", [*(f"t = {t:.2f}" for t in times), "sample"]),
    }
    figure, axes = plt.subplots(1, 2, figsize=(11, 5.4))
    for axis, (name, (title, rows)) in zip(axes, labels.items(), strict=True):
        tiles(axis, run.shown[name].reshape(-1, *run.config.data.shape), levels, count, f"{run.name}: {title}", rows)

# %% [markdown]
# The same order, coarse to fine, appears when samples *share* $x_t$: the printed spread of the copies measures what
# $x_t$ leaves open (Ho et al. 2020, figure 7). Mixing two held-out images at level $t$ and running the reverse process
# interpolates between them (figure 8). All columns have the same noise: with little noise the ends are unchanged, with
# more noise the model generates more, and where the noise dominates both ends all columns are one sample.

# %%
for run in pictured[:1]:
    mixed = [f"t = {t:.2f}" for t in reversed(starts(run, 4))]
    figure, axes = plt.subplots(1, 2, figsize=(11, 5))
    for axis, (name, title, rows) in zip(
        axes,
        [
            ("shared_latents", "samples that have x_t in common", [f"t = {t:.2f}" for t in starts(run, 10)]),
            ("interpolation", "between two held-out digits, mixed at level t", ["mixed pixels", *mixed]),
        ],
        strict=True,
    ):
        tiles(axis, run.shown[name].reshape(-1, *run.config.data.shape), levels, count, f"{run.name}: {title}", rows)
    apart = run.shown["shared_latents"].astype(float).std(axis=1).mean(axis=(1, 2, 3)) * 255 / (levels - 1)
    print("spread of the copies (std of 255): " + ", ".join(f"{s:.0f}" for s in apart))

# %% [markdown]
# ## 5. Which images cost most
#
# The bound is a mean over examples, which hides a spread. Below: the bound of every held-out image, by class on the
# right, and the images at both ends. A digit is expensive if the model has seen few similar ones, or if its strokes
# have much detail; the correlation with the number of pixels that are neither empty nor full measures the second.


# %%
def rank_correlation(one, other):
    """The correlation of the places in rising order."""
    return np.corrcoef(np.argsort(np.argsort(one)), np.argsort(np.argsort(other)))[0, 1]


costs = []
figure, axes = plt.subplots(1, 2, figsize=(11, 3.2))
for i, run in enumerate(runs):
    cost = variational.to_bits(run.bound["terms_nats"].astype(np.float64).sum(1), dims)
    costs.append(cost)
    axes[0].hist(cost, bins=30, color=f"C{i}", alpha=0.5, label=run.name)
    for digit in np.unique(label):
        group = cost[label == digit]
        place, error = digit + 0.2 * (i - 0.5), variational.standard_error(group)
        axes[1].errorbar(place, group.mean(), np.nan_to_num(error), fmt="o", color=f"C{i}", markersize=4, capsize=2)
    between = np.percentile(cost, (0, 5, 50, 95, 100))
    grey = ((images > 0) & (images < config.data.levels - 1)).reshape(len(images), -1).sum(1)
    print(f"{run.name}: bits/dim at the percentiles 0, 5, 50, 95, 100: " + ", ".join(f"{v:.2f}" for v in between))
    print(f"{'':{len(run.name)}}  rank correlation with the number of grey pixels: {rank_correlation(cost, grey):.2f}")
if len(costs) > 1:
    print(f"rank correlation between the costs of the two runs: {rank_correlation(*costs):.2f}")
axes[0].set(xlabel="bits/dim", ylabel="held-out images", title="the bound of each held-out image")
axes[0].legend()
axes[1].set(xlabel="class", ylabel="bits/dim", xticks=np.unique(label), title="by class (mean ± standard error)")

figure, axes = plt.subplots(len(runs), 1, figsize=(9, 2.0 * len(runs)), squeeze=False)
for axis, run, cost in zip(axes[:, 0], runs, costs, strict=True):
    order = np.argsort(cost)
    ends = np.concatenate([order[:12], order[::-1][:12]])
    rows = [f"least, {cost[order[0]]:.2f} …", f"most, {cost[order[-1]]:.2f} …"]
    tiles(axis, images[ends], config.data.levels, len(ends) // 2, f"{run.name}: bits/dim of held-out images", rows)

# %% [markdown]
# ## 6. Ablations
#
# A sweep trains every cell with several seeds: target and objective (Ho et al. 2020, table 2), schedules and losses
# (Nichol and Dhariwal 2021). The papers used CIFAR-10, half a million steps or more, and FID; these runs use digits,
# minutes of training, and the Fréchet distance of pixels. A short run also measures how *fast* a choice learns, so this
# is not a replication of the papers' tables.


# %%
def cells(directory):
    """The grid of a sweep and its rows, as `main compare` reads them."""
    stored = sweeps.stored(directory)
    return stored, comparison.read_rows(directory, stored)


for directory in grids:
    table = comparison.sweep_table(*cells(directory)).replace(f"{directory}{os.sep}", "")
    display(Markdown("##" + table))

# %% [markdown]
# bits/dim and distance favour different choices. Each cell below is a point with standard errors over its seeds; small
# dots are single seeds; dashed lines are the cost of independent pixels and the distance of the held-out digits from
# the training digits. The lower left is best in both.

# %%
FIGURES = "bits_per_dim", "frechet_pixels"


for directory in grids:
    stored, rows = cells(directory)
    rows = [row for row in rows if all(row.values.get(name) for name in FIGURES)]
    if not rows:
        print(f"{directory.name}: no cell with both figures yet")
        continue
    figure, axis = plt.subplots(figsize=(8, 3.6))
    for i, row in enumerate(rows):
        x, y = (row.values[name] for name in FIGURES)
        (x_mean, x_error), (y_mean, y_error) = comparison.mean_and_error(x), comparison.mean_and_error(y)
        axis.plot(x, y, ".", color=f"C{i}", alpha=0.4, markersize=5)
        axis.errorbar(
            x_mean, y_mean, xerr=x_error, yerr=y_error, fmt="os^Dvp"[i % 6], color=f"C{i}", capsize=2, label=row.cell
        )
    for name, scale in zip(FIGURES, (axis.set_xscale, axis.set_yscale), strict=True):
        values = [value for row in rows for value in row.values[name]]
        if min(values) > 0 and max(values) > 5 * min(values):
            scale("log")
    axis.axvline(rows[0].values["baseline_bits_per_dim"][0], color="k", linestyle="--", linewidth=0.8)
    axis.axhline(rows[0].values["frechet_pixels_heldout"][0], color="k", linestyle="--", linewidth=0.8)
    axis.set(
        xlabel="bits/dim", ylabel="Fréchet distance of pixels (grey levels²)", title=stored["sweep"].split("/")[-1]
    )
    figure.legend(loc="outside right upper")

# %% [markdown]
# Comparison with the papers' order: for every two cells that a paper orders, the means here are compared: *agrees* or
# *contradicts* if they differ by more than two standard errors of the difference, *open* otherwise. Pairs that are
# close in the paper itself (`CLOSE`) are omitted. With three seeds a standard error is itself uncertain by about half
# its size: *open* means too few seeds, not a tie.

# %%
PAPERS = {  # cell: (bits/dim, FID) on CIFAR-10, None where the paper gives no figure
    "ddpm_table2": {
        "mean_vlb_learned": (None, 23.69),
        "mean_vlb_fixed": (None, 13.22),
        "eps_vlb_fixed": (3.70, 13.51),
        "eps_simple": (3.75, 3.17),
    },
    "iddpm_table1": {
        "linear_simple": (3.37, 2.90),
        "linear_hybrid": (3.26, 3.07),
        "cosine_simple": (3.26, 3.05),
        "cosine_hybrid": (3.17, 3.19),
        "cosine_vlb": (2.94, 11.47),
    },
}
CLOSE = {"bits_per_dim": 0.01, "frechet_pixels": 0.5}


def verdict(better, worse):
    """Do our figures, of several seeds each, put the one that the paper finds better lower?"""
    (one, one_error), (other, other_error) = comparison.mean_and_error(better), comparison.mean_and_error(worse)
    if one_error is None or other_error is None or abs(other - one) <= 2 * np.hypot(one_error, other_error):
        return "open"
    return "agrees" if one < other else "contradicts"


for directory in grids:
    stored, rows = cells(directory)
    ours = {row.cell: row for row in rows}
    paper = PAPERS.get(pathlib.Path(stored["sweep"].split(":")[0]).stem, {})
    for place, name in enumerate(FIGURES):
        known = sorted((values[place], cell) for cell, values in paper.items() if values[place])
        found = {"agrees": [], "contradicts": [], "open": [], "not run": []}
        for i, (low, better) in enumerate(known):
            for high, worse in known[i + 1 :]:
                if high - low < CLOSE[name]:
                    continue
                figures = [ours[cell].values.get(name) if cell in ours else None for cell in (better, worse)]
                found[verdict(*figures) if all(figures) else "not run"].append(f"{better} < {worse}")
        measured = {row.cell: np.mean(row.values[name]) for row in rows if row.values.get(name)}
        print(f"{directory.name}, {name}; here " + " < ".join(sorted(measured, key=measured.get)))
        for word, pairs in found.items():
            if pairs:
                print(f"    {word} ({len(pairs)}): " + ", ".join(pairs))
    for row in rows:
        ends = ", ".join(f"{kind} {count}" for kind, count in row.counts.items() if count)
        if paper and row.cell not in paper:
            print(f"    {row.cell}, unstable to train in the paper: {ends}")

# %% [markdown]
# At the papers' size, run the sweeps without `:digits`; cells, commands and this notebook are the same.
