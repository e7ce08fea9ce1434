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
# # 6. What generative models are for
#
# A model of the data can do more than draw samples: it finds what is odd, compresses without loss, and describes what
# is there. Each is one command on a trained run. The notebook reads the results of these commands, from the root of
# the repository:
#
#     python -m diffusion_jax.main detect    --workdir=runs/fashion_vlb --odd=data/mnist --num_examples=400 \
#         --out=runs/fashion_vlb/detection.npz
#     python -m diffusion_jax.main compress  --workdir=runs/digits_vlb --num_steps=100 --out=runs/digits_vlb/heldout.djx
#     python -m diffusion_jax.main represent --workdir=runs/digits_cond
#
# The environment variables `DETECTION`, `COMPRESSED` and `REPRESENTED` name other files, and the last one another run.

# %%
import bz2
import io
import json
import lzma
import os
import pathlib
import zlib

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import diffusion_jax
from diffusion_jax.analysis import compression
from diffusion_jax.analysis.detection import auroc
from diffusion_jax.experiment import sources
from diffusion_jax.runs import trained

plt.style.use("tableau-colorblind10")
plt.rcParams.update({"figure.dpi": 110, "figure.constrained_layout.use": True, "axes.grid": True, "grid.alpha": 0.3})
ROOT = pathlib.Path(diffusion_jax.__file__).parent.parent


def place(variable, default):
    """File or directory named by an environment variable, relative to the root of the repository."""
    return ROOT / os.environ.get(variable, default)


detection = place("DETECTION", "runs/fashion_vlb/detection.npz")
compressed = place("COMPRESSED", "runs/digits_vlb/heldout.djx")
represented = place("REPRESENTED", "runs/digits_cond")

# %% [markdown]
# ## 1. Finding what is odd
#
# A score is larger for odder images. The bound itself fails: simple images cost few bits under any model of natural
# images, even of a kind that the model has never seen (Nalisnick et al. 2019). Left: the bits of held-out and of odd
# images. Middle: the score with the largest area under the ROC curve (AUROC). Right: the ROC curves of all scores.

# %%
with np.load(detection) as file:
    scores = {name: file[name] for name in file.files}
names = [name.removesuffix("_odd") for name in scores if name.endswith("_odd")]
areas = {name: auroc(scores[f"{name}_normal"], scores[f"{name}_odd"]) for name in names}
best = max(areas, key=areas.__getitem__)
figure, axes = plt.subplots(1, 3, figsize=(12, 3.4))
for axis, name in zip(axes, ("bits", best), strict=False):
    normal, odd = scores[f"{name}_normal"], scores[f"{name}_odd"]
    bins = np.linspace(*np.quantile(np.concatenate([normal, odd]), [0.005, 0.995]), 40)
    for values, label in ((normal, "held-out"), (odd, "odd")):
        axis.hist(values.clip(bins[0], bins[-1]), bins, density=True, alpha=0.6, label=label)
    axis.set(
        title=f"{name}: AUROC {areas[name]:.3f}",
        xlabel="bits/dim" if name == "bits" else f"score: {name}",
        ylabel="density",
        yticks=[],
    )
    axis.legend()
styles = [line for line in ("-", "--", ":") for _ in range(4)]  # few hues differ for every eye
for i, name in enumerate(names):
    thresholds = np.sort(np.concatenate([scores[f"{name}_normal"], scores[f"{name}_odd"]]))
    false, true = ((scores[f"{name}_{kind}"][:, None] > thresholds).mean(0) for kind in ("normal", "odd"))
    axes[2].plot(false, true, label=name, color=f"C{i % 4}", linestyle=styles[i])
axes[2].set(xlabel="false positive rate", ylabel="true positive rate", title="ROC curves")
axes[2].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
for name in sorted(areas, key=areas.__getitem__, reverse=True):
    print(f"{name:15} AUROC {areas[name]:.3f}")

# %% [markdown]
# ## 2. Compressing without loss
#
# Bits-back coding turns the bound into a file. Its net length, which `compress` prints, is what each further image
# costs, and lies within 1 % of the bound (1.889 bits/dim for `digits_vlb` in 100 steps). The file also holds a header,
# with the labels, and the bits that the latents of the first image were drawn from. Beside it stand the same images
# under general compressors and as one PNG.

# %%
header = compression.read_header(compressed)
run = compressed.parent
x, _ = sources.source(trained.read_config(str(run)), "heldout").read(np.arange(sum(header["groups"])))
png = io.BytesIO()
column = np.moveaxis(x, -1, 0).reshape(-1, x.shape[2]) * (255 // (header["levels"] - 1))  # one image below another
Image.fromarray(column.astype(np.uint8)).save(png, format="PNG", optimize=True)
sizes = {
    f"{run.name}, {header['num_steps']} steps": compressed.stat().st_size,
    "gzip": len(zlib.compress(x.tobytes(), 9)),
    "bz2": len(bz2.compress(x.tobytes(), 9)),
    "xz": len(lzma.compress(x.tobytes(), preset=9 | lzma.PRESET_EXTREME)),
    "PNG": len(png.getvalue()),
}
figure, axis = plt.subplots(figsize=(7, 2.4))
axis.barh(list(sizes), [8 * size / x.size for size in sizes.values()], color=["C0"] + ["C2"] * (len(sizes) - 1))
axis.set(xlabel="bits/dim, whole file", title="Size of the held-out images")
axis.invert_yaxis()
for name, size in sizes.items():
    print(f"{name:28} {size:9,} bytes  {8 * size / x.size:.3f} bits/dim")

# %% [markdown]
# ## 3. Describing
#
# A linear probe on the features of the network, by block and noise level: accuracy in cross-validation on the training
# images. Xiang et al. 2023 found the best features at little noise, in the middle of the way up.

# %%
file = max(represented.glob("evaluation/*/figures.json"), key=os.path.getmtime)
figures = json.loads(file.read_text())
grid_of = {tuple(key.split(" t=")): value for key, value in figures["probe_cross_validated"].items()}
order = ("conv_in", "down", "mid", "up", "norm", "conv_out")  # the way through a U-Net


def depth(block):
    """Place of a block on the way through the network; unknown blocks come last."""
    return next((i for i, name in enumerate(order) if block.startswith(name)), len(order)), block


blocks = sorted({block for block, _ in grid_of}, key=depth)
times = sorted({t for _, t in grid_of}, key=float)
blocks = [block for block in blocks if all((block, t) in grid_of for t in times)]  # not the embedding of the time
values = np.array([[grid_of[block, t] for block in blocks] for t in times])
figure, axis = plt.subplots(figsize=(1 + 0.7 * len(blocks), 2.8))
picture = axis.imshow(values, cmap="viridis", aspect="auto")
axis.set(xticks=range(len(blocks)), yticks=range(len(times)), yticklabels=times, ylabel="noise level t")
axis.set_xticklabels(blocks, rotation=45, ha="right")
axis.grid(False)
figure.colorbar(picture, label="accuracy")
axis.set_title(f"Probe accuracy (best: block {figures['probe_block']}, t = {figures['probe_t']:.2f})")
for name, prefix in (("network", ""), ("pixels", "pixels_"), ("principal components", "pca_")):
    accuracy, error = (figures[f"{prefix}probe_accuracy{end}"] for end in ("", "_stderr"))
    print(f"{name:21} probe {accuracy:.3f} ± {error:.3f}, k-means NMI {figures[f'{prefix}cluster_nmi']:.3f}")
if "classifier_accuracy" in figures:
    print(f"diffusion classifier  {figures['classifier_accuracy']:.3f} ± {figures['classifier_accuracy_stderr']:.3f}")
