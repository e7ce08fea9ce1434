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
# # 7. The neighbours: variational autoencoders and GANs
#
# GANs are said to draw sharp samples, to train unstably and to leave out parts of the data; variational autoencoders
# to train well and to draw blurred samples; diffusion models to combine the advantages of both. Here all three are
# trained by one code on one data set, for about the same time; diffusion by a U-Net, by a transformer, and in the
# latents of an autoencoder. From the root of the repository:
#
#     python -m diffusion_jax.main train --config=configs/digits_vae.py:latent --config.train_steps=1600 \\
#         --workdir=runs/digits_autoencoder
#     python -m diffusion_jax.main sweep --sweep=configs/sweeps/neighbours.py --workdir=runs/neighbours
#     python -m diffusion_jax.main train --config=digits_vlb --workdir=runs/digits_vlb
#
# The environment variables `SWEEP` and `LIKELIHOOD_RUN` name other directories.

# %%
import os
import pathlib

import flax.linen as nn
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import diffusion_jax as dj
from diffusion_jax.analysis import comparison, sweeps
from diffusion_jax.declarations import declare

plt.style.use("tableau-colorblind10")
plt.rcParams.update({"figure.dpi": 110, "figure.constrained_layout.use": True, "axes.grid": True, "grid.alpha": 0.3})
ROOT = pathlib.Path(dj.__file__).parent.parent
sweep = ROOT / os.environ.get("SWEEP", "runs/neighbours")
likelihood_run = ROOT / os.environ.get("LIKELIHOOD_RUN", "runs/digits_vlb")
small = bool(os.environ.get("SMALL"))  # of tests: little to compute

# %% [markdown]
# ## 1. The same data, the same time
#
# Fréchet distance, precision (the share of samples that lie among the data) and recall (the share of the data that lie
# among the samples), in the features of the included digit network. A dot is a training with a seed of its own.

# %%
grid = sweeps.stored(sweep)
rows = {row.cell: row for row in comparison.read_rows(sweep, grid)}
shown = [name for name in rows["diffusion"].values if name.startswith(("fd_", "precision_", "recall_"))]
shown = [name for name in shown if not name.endswith(("_low", "_high", "_stderr"))]
figure, axes = plt.subplots(1, len(shown), figsize=(3.4 * len(shown), 2.6))
for axis, name in zip(axes, shown, strict=True):
    for i, (cell, row) in enumerate(rows.items()):
        values = row.values.get(name, [])
        axis.plot([i] * len(values), values, "o", alpha=0.6, label=cell)
        if values:
            axis.hlines(np.mean(values), i - 0.2, i + 0.2, "k")
    axis.set(title=name.split("_")[0].replace("fd", "Fréchet distance"), xticks=range(len(rows)), xticklabels=rows)
    axis.set(xlim=(-0.5, len(rows) - 0.5), ylim=(0, None))
    axis.tick_params(axis="x", rotation=30)
for cell, row in rows.items():
    texts = [f"{name.split('_')[0]} {comparison.rounded(row.values.get(name, []))}" for name in shown]
    seconds = comparison.rounded(row.values.get("train_seconds", []))
    print(f"{cell:10} {', '.join(texts)}; {seconds} s to train; {comparison.status(row)}")

# %% [markdown]
# Samples of the first training of each:

# %%
figure, axes = plt.subplots(len(rows), 1, figsize=(9, 1.2 * len(rows)))
for axis, cell in zip(axes, rows, strict=True):
    x = dj.load(sweep / cell / "seed0").sample(32, seed=0)
    tiles = np.pad(x[..., 0].astype(float), ((0, 0), (1, 1), (1, 1)), constant_values=np.nan)  # a gap around each
    height, width = tiles.shape[1:]
    tiles = tiles.reshape(2, 16, height, width).swapaxes(1, 2).reshape(2 * height, 16 * width)
    axis.imshow(tiles, cmap="gray")
    axis.set(xticks=[], yticks=[], ylabel=cell)
    axis.grid(False)

# %% [markdown]
# ## 2. Diffusion as a chain of many autoencoders
#
# A chain of T steps is a variational autoencoder with T levels of latents whose encoder is fixed: it adds noise. The
# bound of *one* trained diffusion model, computed with T steps, shows what the levels are for. With a single step all
# of the image has to be guessed from noise at once.

# %%
counts = [1, 2] if small else [1, 2, 4, 16, 64, 256, 1000]
run = dj.load(likelihood_run)
bits = [run.likelihood(options={"bound.num_steps": steps})["bits_per_dim"] for steps in counts]
figure, axis = plt.subplots(figsize=(5, 3))
axis.loglog(counts, bits, "o-", base=10)
for cell, row in rows.items():
    if "bits_per_dim" in row.values:
        level = np.mean(row.values["bits_per_dim"])
        axis.axhline(level, color="C1", linestyle="--", label=f"{cell}, one level, learned encoder: {level:.2f}")
        axis.legend(fontsize=8)
axis.set(xlabel="levels T", ylabel="bound in bits/dim", title=likelihood_run.name)
for steps, value in zip(counts, bits, strict=True):
    print(f"T = {steps:4}: {value:.3f} bits/dim")

# %% [markdown]
# ## 3. What is left out: 25 modes
#
# A common toy set of the GAN literature: a grid of 25 narrow Gaussians in the plane. All networks are perceptrons with
# three hidden layers, trained for the same number of steps. Those whose input is a point also get sines and cosines of
# its coordinates. The networks are written here: a class that declares what it is can be trained like a built-in one.


# %%
class Perceptron(nn.Module):
    outputs: int
    sines: bool = False

    @nn.compact
    def __call__(self, x):
        if self.sines:
            waves = jnp.concatenate([x, 2 * x, 4 * x], axis=-1)
            x = jnp.concatenate([x, jnp.sin(waves), jnp.cos(waves)], axis=-1)
        for _ in range(3):
            x = nn.silu(nn.Dense(128)(x))
        return nn.Dense(self.outputs)(x)


class Denoiser(nn.Module):
    @nn.compact
    def __call__(self, x, time):
        return Perceptron(2, sines=True)(jnp.concatenate([x, time[:, None] / 100], axis=-1))


@declare(adversarial=True)
class GAN(nn.Module):
    latent_shape = (2,)

    def setup(self):
        self.generator, self.discriminator = Perceptron(2), Perceptron(1, sines=True)

    def generate(self, z, keys=None):
        return self.generator(z)

    def discriminate(self, x, keys=None):
        return self.discriminator(x)[:, 0]

    def __call__(self, x, time, label=None, keys=None):
        return self.generate(jnp.zeros((len(x), 2))), self.discriminate(x)


@declare(autoencoder=True)
class VAE(nn.Module):
    latent_shape = (2,)

    def setup(self):
        self.encoder, self.decoder = Perceptron(4, sines=True), Perceptron(4)

    def encode(self, x, keys=None):
        return self.encoder(x)

    def decode(self, z, keys=None):
        return self.decoder(z)

    def __call__(self, x, time, label=None, keys=None):
        return self.decode(self.encode(x)[..., :2])


SPREAD = 0.1
generator = np.random.default_rng(0)
modes = np.stack(np.meshgrid(*[np.linspace(-4, 4, 5)] * 2), -1).reshape(25, 2)
points = modes[generator.integers(25, size=20_000)] + SPREAD * generator.standard_normal((20_000, 2))
direct = {"sampler.name": "direct"}
adversarial = {"optimizer.adam.b1": 0.0, "optimizer.adam.b2": 0.99, "optimizer.grad_clip": 0.0, "loss.gan.r1": 0.01}
models = {
    "diffusion": dj.Model(Denoiser(), schedule="cosine", num_steps=100),
    "vae": dj.Model(VAE(), loss="elbo", options=direct),
    "gan": dj.Model(GAN(), loss="gan", options=direct | adversarial),
}
options = {"ema.decays": (0.99,), "optimizer.schedule": "cosine"}
drawn = {"data": points[:2000]}
for name, model in models.items():
    trained = dj.train(
        model, points.astype("float32"), train_steps=2 if small else 3000, batch_size=256, options=options
    )
    drawn[name] = trained.sample(20 if small else 2000, seed=0)

figure, axes = plt.subplots(1, len(drawn), figsize=(3 * len(drawn), 3.2))
for axis, (name, x) in zip(axes, drawn.items(), strict=True):
    distance = np.linalg.norm(x[:, None] - modes, axis=-1)
    near = distance.min(1) < 4 * SPREAD
    counts_of = np.bincount(distance.argmin(1)[near], minlength=25)
    share = counts_of / max(1, counts_of.sum())
    off = np.abs(share - 1 / 25).sum() / 2
    axis.scatter(*x.T, s=1)
    axis.set(title=f"{name}: {near.mean():.0%} near a mode", xlim=(-5, 5), ylim=(-5, 5), xticks=[], yticks=[])
    print(f"{name:10} near a mode {near.mean():.3f}, modes {(counts_of > 0).sum()} of 25, mass misplaced {off:.3f}")
