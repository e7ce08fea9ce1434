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
# The first notebook trained nothing. This one analyses trained models: the bits of each step of the variational bound,
# the image that a receiver can reconstruct from the bits sent so far, the cost of single images, and ablations of the
# choices of Ho et al. 2020. It reads files only, so it runs in seconds. These commands make the files, from the root of
# the repository:
#
#     python -m diffusion_jax.main train    --config=configs/digits.py --workdir=runs/digits
#     python -m diffusion_jax.main evaluate --workdir=runs/digits --likelihood=vlb
#     python -m diffusion_jax.main show     --workdir=runs/digits
#     # the same three for a model trained for likelihood: configs/digits_vlb.py, runs/digits_vlb
#     python -m diffusion_jax.main sweep    --sweep=configs/sweeps/ddpm_table2.py:digits --workdir=runs/table2_digits
#     python -m diffusion_jax.main sweep    --sweep=configs/sweeps/iddpm_table1.py:digits --workdir=runs/table1_digits
#
# The environment variables `RUN`, `LIKELIHOOD_RUN` and `SWEEPS` name other directories. Both runs must be trained on
# the same data set; the second run and the sweeps are optional. Statements about *these* runs are computed in the cell
# above them.

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

plt.style.use("tableau-colorblind10")
plt.rcParams.update({"figure.dpi": 120, "figure.constrained_layout.use": True, "axes.grid": True, "grid.alpha": 0.3})
logging.getLogger("diffusion_jax").setLevel(logging.ERROR)  # warnings that name directories of one machine
ROOT = pathlib.Path(diffusion_jax.__file__).parent.parent


def places(variable, default):
    """Directories named by an environment variable, relative to the root of the repository."""
    return [ROOT / path for path in os.environ.get(variable, default).split(os.pathsep)]


class Evaluated(NamedTuple):
    """A run and the results of `evaluate --likelihood=vlb` and `show`."""

    name: str
    config: ConfigDict
    experiment: wiring.Experiment
    figures: dict[str, Any]
    bound: dict[str, np.ndarray]
    """vlb.npz: arrays over the steps in the order of sampling, from t = 1 down."""
    shown: dict[str, np.ndarray]
    """progressive.npz, or an empty dictionary if the file is missing."""


def read(run):
    """Load the results of the newest evaluated checkpoint of a run."""
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
of_mean = float(np.sqrt(np.mean((images - mean) ** 2)) * 255 / (config.data.levels - 1))  # RMSE of the mean image

# %% [markdown]
# ## 1. The bound, term by term
#
# $-\log p(x_0)$ is at most $L_T + \sum_k L_{k-1}$ (Ho et al. 2020, eq. 5). $L_T$ is the KL divergence of $x_1$ from the
# prior. Each step contributes the KL divergence of its two Gaussians, except the last step, which contributes the
# negative log-likelihood of the grey levels under a discrete decoder. The terms before the last step are the *rate*,
# the last one is the *distortion*. All are given in bits/dim: bits divided by the number of pixels. The baseline is a
# model of independent pixels, with one histogram per pixel.

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
axes[0].set(xlabel="time $t$ at the start of the step", ylabel="bits/dim", title="Terms of the variational bound")
axes[0].legend()
axes[1].set(xlabel="bits/dim", yticks=range(len(runs)), yticklabels=[run.name for run in runs])
axes[1].set_title("Sum of the terms (dashed: independent pixels)")
axes[1].invert_yaxis()
axes[1].grid(axis="y", alpha=0)

# %% [markdown]
# The left-most point of each curve is the term of the decoder, the distortion in the right panel. The noise schedule
# divides the bits between the decoder and the last KL terms: the less noise is left at the last level, the smaller the
# share of the decoder.

# %% [markdown]
# ## 2. Distribution of the bits over the steps
#
# On CIFAR-10, Ho et al. found that 1.66 of 1.78 bits/dim of rate are sent in the last tenth of the reverse steps. In
# these steps the error of the image falls from 12 to 1 (of 255), which is mostly imperceptible. The cell below computes
# the same quantities for these runs. The error at time $t$ is the root mean square error (RMSE) of the prediction
# $\hat x_0(x_t)$, in 255ths of the range. Without any information the best prediction is the mean image (dotted). A
# network that predicts the noise can start far above this line, because an error of the noise is amplified most at
# $t = 1$ (first notebook, section 6).

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
    axis.set(xlabel="share of the reverse steps", ylim=(0, None))
axes[0].set(title="Bits sent, by step", ylabel="share of the bound")
axes[1].set(title="Error of the prediction $\\hat x_0(x_t)$", ylabel="RMSE (of 255)", ylim=(0, 2.2 * of_mean))
axes[1].axhline(of_mean, color="k", linestyle=":", label="mean image")
axes[1].legend()
axes[2].set(title="Bits sent, by noise level", xlabel=r"remaining noise $\sigma/\alpha$", ylim=(0, None))
axes[2].set(ylabel="share of the bound")
axes[0].legend(loc="upper left")
axes[2].invert_xaxis()

# %% [markdown]
# The first printed line of each run gives the share of the bits in the last tenth of the steps (shaded) and the error
# before and after them. The second line gives the step at which half of the bits have been sent. The schedule
# determines how many steps have little noise, so two schedules are better compared at equal remaining noise (right).
#
# The next pictures show the predictions $\hat x_0(x_t)$ near the end of sampling, the images $x_0$, and the difference,
# which the remaining bits encode.


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
    """Times at which `number` equal parts of the sampler's grid start: the levels of the pictures of `main show`."""
    return [float(part.at.t[0]) for part in progressive.parts(run.experiment.sampler.coefficients(None), number)]


def sent_at(run, t):
    """Return the rate in bits/dim sent down to t, and the RMSE of the prediction at t."""
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
        f"{run.name}: predictions at t = {t:.2f}, {share:.0%} of the bits sent",
        ["prediction", "$x_0$", "difference"],
    )

# %% [markdown]
# The bound weighs all bits equally; perception does not. The bits of invisible detail motivate *latent* diffusion: an
# autoencoder removes them in one step, and the diffusion model spends its capacity on the coarse content.

# %% [markdown]
# ## 3. Rate and distortion
#
# The rate-distortion curve (Ho et al. 2020, figure 5) plots the error of the prediction against the bits sent so far.
# It does not depend on the numbering of the steps, so models with different schedules can be compared point by point.

# %%
figure, axis = plt.subplots(figsize=(6.5, 3.4))
for i, run in enumerate(runs):
    axis.plot(run.bound["rate_bits_per_dim"], run.bound["rmse"], color=f"C{i}", label=run.name)
    axis.plot(run.bound["rate_bits_per_dim"][-1], run.bound["rmse"][-1], "o", color=f"C{i}")
axis.set(xlabel="rate (bits/dim)", ylabel="RMSE (of 255)", ylim=(0, 2.2 * of_mean), title="Rate-distortion curve")
axis.axhline(of_mean, color="k", linestyle=":", label="mean of the training images")
axis.legend(title="dots: before the decoder")

half_a_level = 127.5 / (config.data.levels - 1)
limits = 64, 48, 32, 16, half_a_level
print(f"RMSE of the mean of the training images: {of_mean:.1f}; half a step of the grey levels: {half_a_level:.1f}")
print("rate at RMSE below  " + "".join(f"{limit:>8.0f}" for limit in limits) + "   share of the bits still to come")
for run in runs:
    below = [run.bound["rate_bits_per_dim"][run.bound["rmse"] < limit] for limit in limits]
    crossed = "".join(f"{rate[0]:8.3f}" if len(rate) else f"{'never':>8}" for rate in below)
    to_come = 1 - np.append(below[-1], run.figures["bits_per_dim"])[0] / run.figures["bits_per_dim"]
    print(f"{run.name:20}{crossed}{to_come:34.0%}")
for run in runs:
    if run.config.prediction.variance == "fixed_large":
        row = loop.coefficients(
            run.experiment.process, run.experiment.schedule(None), run.bound["t"]
        )  # all steps but the last
        excess = row.log_var_large - row.log_var_small
        price = 0.5 * np.sum(excess + np.exp(-excess) - 1) / np.log(2)
        print(f"{run.name}: its large variance alone costs {price:.3f} bits/dim, were every x0 predicted exactly")

# %% [markdown]
# On CIFAR-10 the curve bends sharply: the RMSE falls from 67.6 to 12.0 in the first 0.12 of 1.78 bits/dim. An image of
# 64 pixels has less redundancy than one of 3,072.
#
# Once the RMSE is below half a grey level, rounding the prediction would mostly give the exact image, and a perfect
# denoiser would need almost no further bits. A trained network still spends bits there, for two reasons: its errors are
# small but the noise of these steps is smaller, and the fixed variance of the reverse kernel is not the exact one.
# Therefore a model can generate good digits and still have a bound above that of independent pixels (section 1).

# %% [markdown]
# ## 4. Progressive decoding and generation
#
# Every diffusion model is a lossy codec. *Progressive decoding* predicts held-out images $x_0$ from
# $x_t \sim q(x_t|x_0)$ at falling $t$, that is at increasing rate. *Progressive generation* shows the predictions while
# a sample is drawn: coarse features appear first (Ho et al. 2020, figure 6).

# %%
for run in [run for run in runs if not run.shown]:
    print(f"{run.name}: no pictures to show; make them by main show, or go on without")
for run in pictured[:1]:
    levels, count = run.config.data.levels, run.shown["progressive_decoding"].shape[1]
    times = starts(run, 10)
    sent = ["t = {:.2f}: {:.3f} bits/dim, RMSE {:.0f}".format(t, *sent_at(run, t)) for t in times]
    labels = {
        "progressive_decoding": ("progressive decoding, held-out digits", [*sent, "$x_0$"]),
        "progressive_generation": ("progressive generation", [*(f"t = {t:.2f}" for t in times), "sample"]),
    }
    figure, axes = plt.subplots(1, 2, figsize=(11, 5.4))
    for axis, (name, (title, rows)) in zip(axes, labels.items(), strict=True):
        tiles(axis, run.shown[name].reshape(-1, *run.config.data.shape), levels, count, f"{run.name}: {title}", rows)

# %% [markdown]
# Left: each row shows samples that continue from one *shared* $x_t$ (Ho et al. 2020, figure 7). The printed standard
# deviation over a row measures the information that $x_t$ lacks; it falls with $t$.
#
# Right: two held-out images are noised to time $t$, mixed, and denoised by the reverse process (figure 8). All columns
# of a row have the same noise. At small $t$ the ends of a row stay the held-out images. At large $t$ the noise
# dominates both ends, and all columns become the same sample.

# %%
for run in pictured[:1]:
    mixed = [f"t = {t:.2f}" for t in reversed(starts(run, 4))]
    figure, axes = plt.subplots(1, 2, figsize=(11, 5))
    for axis, (name, title, rows) in zip(
        axes,
        [
            ("shared_latents", "samples with $x_t$ in common", [f"t = {t:.2f}" for t in starts(run, 10)]),
            ("interpolation", "interpolation at time t", ["mixed pixels", *mixed]),
        ],
        strict=True,
    ):
        tiles(axis, run.shown[name].reshape(-1, *run.config.data.shape), levels, count, f"{run.name}: {title}", rows)
    apart = run.shown["shared_latents"].astype(float).std(axis=1).mean(axis=(1, 2, 3)) * 255 / (levels - 1)
    print("standard deviation of the samples in each row (of 255): " + ", ".join(f"{s:.0f}" for s in apart))

# %% [markdown]
# ## 5. Cost of single images
#
# The bound is a mean over held-out images. The histogram shows its distribution over images, the right panel its mean
# by class, and the pictures show the least and the most expensive images. A digit is expensive if the training set has
# few similar digits or if its strokes have much detail. The printed rank correlation measures the second reason: it
# compares the bound with the number of pixels that are neither empty nor full.


# %%
def rank_correlation(one, other):
    """Spearman's rank correlation."""
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
axes[0].set(xlabel="bits/dim", ylabel="number of images", title="Bound of each held-out image")
axes[0].legend()
axes[1].set(xlabel="class", ylabel="bits/dim", xticks=np.unique(label), title="Mean by class (bars: standard error)")

figure, axes = plt.subplots(len(runs), 1, figsize=(9, 2.0 * len(runs)), squeeze=False)
for axis, run, cost in zip(axes[:, 0], runs, costs, strict=True):
    order = np.argsort(cost)
    ends = np.concatenate([order[:12], order[::-1][:12]])
    rows = [f"from {cost[order[0]]:.2f} up", f"from {cost[order[-1]]:.2f} down"]
    title = f"{run.name}: held-out images with the least and the most bits/dim"
    tiles(axis, images[ends], config.data.levels, len(ends) // 2, title, rows)

# %% [markdown]
# ## 6. Ablations
#
# A sweep trains each combination of choices ("cell") with several seeds. The first sweep varies target and objective
# (Ho et al. 2020, table 2), the second schedule and loss (Nichol and Dhariwal 2021). The papers used CIFAR-10, half a
# million steps or more, and FID. These runs use digits, minutes of training, and the Fréchet distance of pixels. Such
# short runs also reward choices that learn *fast*, so this is not a replication of the papers' tables.


# %%
def cells(directory):
    """The grid of a sweep and its rows, as `main compare` reads them."""
    stored = sweeps.stored(directory)
    return stored, comparison.read_rows(directory, stored)


for directory in grids:
    table = comparison.sweep_table(*cells(directory)).replace(f"{directory}{os.sep}", "")
    display(Markdown("##" + table))

# %% [markdown]
# Bits/dim and Fréchet distance favour different choices. Each marker below is the mean of a cell with its standard
# error over the seeds; small dots are single seeds. The dashed lines are the bits/dim of independent pixels (vertical)
# and the distance of the held-out digits from the training digits (horizontal). Lower is better for both.

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
    axis.axhline(rows[0].values["heldout_frechet_pixels"][0], color="k", linestyle="--", linewidth=0.8)
    axis.set(
        xlabel="bits/dim", ylabel="Fréchet distance of pixels (grey levels²)", title=stored["sweep"].split("/")[-1]
    )
    figure.legend(loc="outside right upper")

# %% [markdown]
# The last cell compares the order of the means here with the order in the papers, for each pair of cells. The verdict
# is *agrees* or *contradicts* if the means differ by more than two standard errors of the difference, and *open*
# otherwise. Pairs that are close in the paper itself (`CLOSE`) are omitted. With three seeds a standard error is itself
# uncertain by about half its size, so *open* means too few seeds, not a tie.

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
    """Compare the order of two cells here, over several seeds each, with the order in the paper."""
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
