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
# # 5. Real images
#
# Models of MNIST and Fashion-MNIST, 28 x 28 pixels with 256 grey levels, trained on two CPU cores: how the held-out
# loss falls, where the bits go, what the samples look like, and how many network calls a sampler needs. The notebook
# reads files only. These commands make them, from the root of the repository:
#
#     python -m diffusion_jax.main train    --config=mnist_vlb --workdir=runs/mnist_vlb
#     python -m diffusion_jax.main evaluate --workdir=runs/mnist_vlb --likelihood=vlb --num_samples=0
#     python -m diffusion_jax.main train    --config=fashion_cond --workdir=runs/fashion_cond
#     python -m diffusion_jax.main evaluate --workdir=runs/fashion_cond --metrics=fid --features=grey28 \
#         --num_samples=1000 --allow=sizes
#     python -m diffusion_jax.main frontier --workdir=runs/fashion_cond --features=grey28 --num_samples=200 \
#         --samplers=ddim,dpmpp_2m:logsnr --steps=5,10,20
#
# The environment variable `RUNS` names other directories. Missing results are reported and skipped.

# %%
import os
import pathlib

import matplotlib.pyplot as plt
import numpy as np

import diffusion_jax
from diffusion_jax.analysis.frontier import read_cells
from diffusion_jax.experiment import sources
from diffusion_jax.metrics.neighbours import nearest
from diffusion_jax.runs import metric_log, trained
from diffusion_jax.runs.pictures import grid

plt.style.use("tableau-colorblind10")
plt.rcParams.update({"figure.dpi": 110, "figure.constrained_layout.use": True, "axes.grid": True, "grid.alpha": 0.3})
ROOT = pathlib.Path(diffusion_jax.__file__).parent.parent
RUNS = os.environ.get("RUNS", f"runs/mnist_vlb{os.pathsep}runs/fashion_cond")
runs = [path for path in (ROOT / name for name in RUNS.split(os.pathsep)) if (path / "checkpoints").is_dir()]
if not runs:
    raise FileNotFoundError("there is no run to read: make one by the commands above, or name it in RUNS")
configs = {run.name: trained.read_config(str(run)) for run in runs}


def newest(run, pattern):
    """Newest file of an evaluation, or None."""
    return max(run.glob(f"evaluation/*/{pattern}"), key=os.path.getmtime, default=None)


# %% [markdown]
# ## 1. Training
#
# Held-out loss against the number of training images, of the weights and of their average. The loss of `mnist_vlb` is
# the whole variational bound in bits/dim; that of the others is the mean squared error of the noise.

# %%
figure, panels = plt.subplots(1, len(runs), figsize=(5.2 * len(runs), 3.3), squeeze=False)
for axes, run in zip(panels[0], runs, strict=True):
    c = configs[run.name]
    records = [record for record in metric_log.read_metrics(str(run)) if "heldout_loss" in record]
    images = [record["step"] * c.batch_size / 1000 for record in records]
    for name, label in (("heldout_loss", f"average {c.ema.decays[0]}"), ("heldout_loss_raw", "weights")):
        axes.plot(images, [record.get(name, np.nan) for record in records], marker=".", label=label)
    unit = "bits/dim" if c.loss.name == "vlb" else "loss"
    axes.set(title=run.name, xlabel="thousands of training images", ylabel=f"held-out {unit}")
    axes.legend()
    print(
        f"{run.name}: {c.train_steps:,} steps of {c.batch_size} images, last held-out {records[-1]['heldout_loss']:.4f}"
    )

# %% [markdown]
# ## 2. Bits
#
# The terms of the bound of each step, and distortion against rate: the receiver of the first bits can already draw a
# recognisable image, and most bits go into the last grey levels (Ho et al. 2020, figure 5). Right: mean bits of each
# class, with two standard errors. Simple shapes cost few bits.

# %%
for run in runs:
    file = newest(run, "vlb.npz")
    if file is None:
        print(f"{run.name}: no bound to read; make it by the commands above, or go on without")
        continue
    c, bound = configs[run.name], np.load(file)
    dims = np.prod(c.data.shape)
    bits = bound["terms_nats"].sum(1) / dims / np.log(2)
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.3))
    axes[0].loglog(bound["t"], bound["bits_per_dim"])
    axes[0].set(title=f"{run.name}: {bits.mean():.3f} bits/dim", xlabel="t", ylabel="bits/dim of a step")
    axes[1].plot(bound["rate_bits_per_dim"], bound["rmse"])
    axes[1].set(xlabel="rate (bits/dim)", ylabel="RMSE (0 to 255)", ylim=(0, None), title="Rate and distortion")
    label = sources.source(c, "heldout").read(np.arange(len(bits)))[1]
    classes = np.unique(label)
    of_class = [bits[label == k] for k in classes]
    error = [2 * values.std() / max(len(values) - 1, 1) ** 0.5 for values in of_class]
    axes[2].bar(classes, [values.mean() for values in of_class], yerr=error, capsize=3)
    axes[2].set(
        xlabel="class", ylabel="bits/dim", title=f"Bound by class ({len(bits)} images, ± 2 s.e.)", xticks=classes
    )
    worst = classes[np.argmax([values.mean() for values in of_class])]
    print(f"{run.name}: {bits.mean():.3f} ± {bits.std() / len(bits) ** 0.5:.3f} bits/dim; most for class {worst}")

# %% [markdown]
# ## 3. Samples
#
# Top: samples. Middle: the training image nearest to each in pixels; samples that are copies would equal it. Bottom:
# held-out images.

# %%
for run in runs:
    file = newest(run, "samples-*/0*.npz")
    if file is None:
        print(f"{run.name}: no samples to show; make them by the commands above, or go on without")
        continue
    c = configs[run.name]
    with np.load(file) as stored:
        samples = stored["samples"][:14]
    train, heldout = (sources.source(c, split) for split in ("train", "heldout"))
    known = train.read(np.arange(min(train.size, 20_000)))[0]
    flat = [x.reshape(len(x), -1).astype(np.float32) for x in (samples, known)]
    distance, place = nearest(*flat, 1)
    rows = np.concatenate([samples, known[place[:, 0]], heldout.read(np.arange(len(samples)))[0]])
    figure, axes = plt.subplots(figsize=(9, 2.2))
    axes.imshow(grid(rows, c.data.levels, columns=len(samples)), cmap="gray", vmin=0, vmax=255, interpolation="none")
    axes.set_axis_off()
    axes.set_title(f"{run.name}: samples, nearest of {len(known):,} training images, held-out images", fontsize=9)
    print(
        f"{run.name}: RMSE to the nearest training image {np.sqrt(distance.mean() / flat[0].shape[1]):.1f} grey levels"
    )

# %% [markdown]
# ## 4. Quality against network calls
#
# Fréchet distance in the features of `grey28`, with 95 % intervals over draws of the samples. A perfect model would
# reach the value of as many held-out images.

# %%
for run in runs:
    cells = [cell for place in run.glob("evaluation/*/frontier*") for cell in read_cells(place, "grey28")]
    if not cells:
        print(f"{run.name}: no frontier to read; make it by the commands above, or go on without")
        continue
    figure, axes = plt.subplots(figsize=(6, 3.6))
    for sampler in sorted({cell["sampler"] for cell in cells}):
        curve = sorted((cell for cell in cells if cell["sampler"] == sampler), key=lambda cell: cell["network_calls"])
        calls, value, low, high = (
            np.array([cell[name] for cell in curve])
            for name in ("network_calls", "frechet_grey28", "frechet_low", "frechet_high")
        )
        axes.errorbar(calls, value, abs(np.stack([low, high]) - value), marker="o", capsize=3, label=sampler)
        best = value.argmin()
        print(
            f"{run.name}: {sampler}: {value[best]:.2f} ({low[best]:.2f} to {high[best]:.2f}) after {calls[best]} calls"
        )
    axes.set(xlabel="network calls per sample", ylabel="Fréchet distance", title=run.name, ylim=(0, None))
    axes.legend()
