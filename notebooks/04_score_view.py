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
# # 4. The score-based view
#
# This notebook describes diffusion models as Song and Ermon 2019 and Song et al. 2021 do. Noise turns the data into a
# family of densities $p_t$, a network learns the *score* $\nabla_x \log p_t(x)$ of each, and samples are solutions of a
# differential equation whose only unknown is the score. In two dimensions the score field can be plotted, and for a
# mixture of Gaussians the exact score has a closed form, so that every learned quantity can be compared with the truth.
#
# Sections 1 to 3 train a small perceptron and need no files. Sections 4 and 5 end with measurements on images, read
# from runs if there are any:
#
#     python -m diffusion_jax.main train    --config=configs/digits.py --workdir=runs/digits
#     python -m diffusion_jax.main frontier --workdir=runs/digits --samplers=ancestral,ddim,dpmpp_2m:logsnr \
#         --steps=5,10,15,25,50,100
#     python -m diffusion_jax.main train    --config=configs/digits_cond.py --workdir=runs/digits_cond
#     python -m diffusion_jax.main evaluate --workdir=runs/digits_cond --scales=0,1,2,4,8 --sampler.num_steps=100
#
# The environment variables `FRONTIERS` and `GUIDED` name other directories, several separated by colons; `STEPS` and
# `POINTS` are the training steps of the perceptron and the number of samples.

# %%
import csv
import functools
import itertools
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.ticker import NullLocator

import diffusion_jax
from diffusion_jax.analysis import frontier
from diffusion_jax.data.embedded import RING_MEANS, RING_STD, toy2d
from diffusion_jax.networks.mlp import MLP
from diffusion_jax.objective import conditionings, losses, prediction, reverse, targets, time_sampling
from diffusion_jax.objective.prediction import Prediction
from diffusion_jax.process import schedules
from diffusion_jax.process.base import expand, level
from diffusion_jax.process.gaussian import GaussianProcess
from diffusion_jax.sampling import grids, guidance, loop
from diffusion_jax.sampling.registry import SAMPLERS
from diffusion_jax.training.state import create
from diffusion_jax.training.step import make_train_step

plt.style.use("tableau-colorblind10")
plt.rcParams.update({"figure.dpi": 120, "figure.constrained_layout.use": True, "axes.grid": True, "grid.alpha": 0.3})
ROOT = pathlib.Path(diffusion_jax.__file__).parent.parent
STEPS, POINTS = (int(os.environ.get(name, default)) for name, default in (("STEPS", "6000"), ("POINTS", "6000")))

process, schedule = GaussianProcess(), schedules.vp()
source = toy2d("train")
data = source.read(np.arange(source.size))[0]

# %% [markdown]
# ## 1. One score field per noise level
#
# The data are eight small Gaussians on a ring, $p_0 = \frac18 \sum_k \mathcal N(m_k, c^2 I)$. Under $x_t = \alpha x_0 +
# \sigma \epsilon$ they become $p_t = \frac18 \sum_k \mathcal N(\alpha m_k, (\alpha^2c^2 + \sigma^2) I)$. Score, noise
# and clean point are equivalent (Tweedie's formula; Vincent 2011),
#
# $$\nabla_x \log p_t(x) = -\frac{\mathbb E[\epsilon \mid x_t = x]}{\sigma}
# = \frac{\alpha\, \mathbb E[x_0 \mid x_t = x] - x}{\sigma^2},$$
#
# so a network trained to predict the noise, with squared errors only, has learned the score.


# %%
def exact(means, std):
    """(predict, log_joint) for x0 ~ mean over k of N(means[k], std² I); a label k >= 0 selects component k."""

    def log_joint(x, at, label=None):
        offset = x[:, None] - expand(at.alpha, x)[..., None] * means  # [B, K, 2]
        variance = (at.alpha**2 * std**2 + at.sigma**2)[..., None]
        logs = -0.5 * jnp.sum(offset**2, -1) / variance - jnp.log(2 * np.pi * variance * len(means))
        if label is None:
            return logs
        wanted = label[:, None]
        return jnp.where((wanted < 0) | (wanted == jnp.arange(len(means))), logs, -jnp.inf)

    def predict(params, x, at, label=None, keys=None):
        alpha, sigma = expand(at.alpha, x), expand(at.sigma, x)
        centre = jax.nn.softmax(log_joint(x, at, label)) @ means
        x0 = centre + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * centre)
        return Prediction(x0, (x - alpha * x0) / sigma, None)

    return predict, log_joint


true, log_joint = exact(RING_MEANS, RING_STD)
network = MLP(out_channels=2, width=64)
learned = prediction.make_denoiser(
    network.apply, lambda params: schedule, targets.eps(), conditionings.logsnr_conditioning()
)


def train(steps, batch_size=256, seed=0):
    """Train the perceptron on the ring; return its averaged parameters and the loss of each step."""
    terms = {"simple": (1.0, losses.weighted_mse(lambda params: schedule, targets.eps(), losses.simple()))}
    loss = losses.weighted_sum(learned, process, lambda params: schedule, terms)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    step = make_train_step(loss, time_sampling.log_normal(schedule, 1e-3), optimizer, batch_size)
    key_init, key_data, key_steps = jax.random.split(jax.random.key(seed), 3)
    params = {"net": network.init(key_init, jnp.zeros((1, 2)), jnp.zeros(1))["params"]}

    def body(state, rows):
        batch = {"x0": jnp.asarray(data)[rows], "label": jnp.zeros(batch_size, int), "index": jnp.arange(batch_size)}
        state, metrics = step(state, batch, key_steps)
        return state, metrics["loss"]

    rows = jax.random.randint(key_data, (steps, batch_size), 0, len(data))
    state, found = jax.jit(lambda state: jax.lax.scan(body, state, rows))(create(params, optimizer, (0.999,)))
    return state.ema["0.999"], np.asarray(found)


params, history = train(STEPS)
first, last = (part.mean() for part in np.split(history, [len(history) // 20, -(len(history) // 20)])[::2])
print(f"{STEPS:,} steps on {len(data):,} points: mean loss of the first twentieth {first:.3f}, of the last {last:.3f}")

# %%
NOISE = [2.0, 0.5, 0.15]  # sigma/alpha of the levels to plot
axis_of = np.linspace(-2.4, 2.4, 121)
places = np.stack(np.meshgrid(axis_of, axis_of), -1).reshape(-1, 2).astype(np.float32)
arrows = np.stack(np.meshgrid(axis_of[6::9], axis_of[6::9]), -1).reshape(-1, 2).astype(np.float32)
at_noise = grids.time_of(schedule, jnp.asarray([-2 * np.log(noise) for noise in NOISE]))
score_of = jax.jit(lambda params, x, at: -learned(params, x, at).eps / expand(at.sigma, x))
true_score_of = jax.jit(lambda x, at: -true(None, x, at).eps / expand(at.sigma, x))

figure, axes = plt.subplots(2, 3, figsize=(10.5, 7), sharex=True, sharey=True)
for column, (noise, t) in enumerate(zip(NOISE, at_noise, strict=True)):
    at = level(schedule, jnp.full(len(places), t))
    density = np.exp(jax.nn.logsumexp(log_joint(places, at), axis=1)).reshape(len(axis_of), -1)
    here = level(schedule, jnp.full(len(arrows), t))
    for row, (name, field) in enumerate(
        {"exact score": true_score_of(arrows, here), "learned score": score_of(params, arrows, here)}.items()
    ):
        field = np.asarray(field)
        length = np.linalg.norm(field, axis=1, keepdims=True)
        axis = axes[row, column]
        axis.contourf(axis_of, axis_of, density, levels=12, cmap="Blues")
        axis.quiver(*arrows.T, *(field / np.sqrt(length * length.mean())).T, angles="xy", scale=22, width=0.005)
        axis.set(title=rf"{name}, $\sigma/\alpha$ = {noise:g} (t = {t:.2f})", aspect="equal")
        axis.grid(False)
for axis in axes[-1]:
    axis.set_xlabel("$x_1$")
for axis in axes[:, 0]:
    axis.set_ylabel("$x_2$")

# %% [markdown]
# Blue: density $p_t$. Arrows: score, with the square root of its norm as length. With much noise there is one mode, and
# every arrow points to it; with less noise the eight modes separate. The learned score agrees with the exact one where
# the density is high, which is where the network was trained. Elsewhere it can be wrong without harm, because a sample
# that starts from the prior stays in the region of high density at each level.
#
# The next cell measures the relative error of the learned score at points drawn from $p_t$ and at points drawn
# uniformly from the square.

# %%
levels = np.linspace(0.02, 1, 25)
key = jax.random.key(1)
noise, sample = jax.random.normal(key, (4000, 2)), data[:4000]
square = jax.random.uniform(jax.random.key(2), (4000, 2), minval=-2.4, maxval=2.4)


@jax.jit
def errors(t):
    """Relative root mean square error of the learned score, on points of p_t and on points of the square."""
    at = level(schedule, jnp.full(len(sample), t))

    def error(x):
        truth = true_score_of(x, at)
        return jnp.sqrt(jnp.sum((score_of(params, x, at) - truth) ** 2) / jnp.sum(truth**2))

    return error(process.corrupt(at, sample, noise)), error(square)


found = np.array([errors(t) for t in levels])
figure, axis = plt.subplots(figsize=(6.5, 3))
axis.plot(levels, found[:, 0], "o-", label="points drawn from $p_t$")
axis.plot(levels, found[:, 1], "s--", label="points drawn from the square")
axis.set(xlabel="time $t$", ylabel="relative RMS error", ylim=(0, None), title="Error of the learned score")
axis.legend()
for t in (0.02, 0.1, 0.6):
    i = np.argmin(np.abs(levels - t))
    print(f"t = {levels[i]:.2f}: relative error {found[i, 0]:.1%} on points of p_t, {found[i, 1]:.1%} on the square")

# %% [markdown]
# At low noise the network is accurate near the data and inaccurate between the modes. Towards $t = 1$ the error grows
# again, since training rarely sampled those levels (log-normal times of Karras et al. 2022). There the density is close
# to the prior, and the error has little effect on samples.

# %% [markdown]
# ## 2. Langevin dynamics need several noise levels
#
# The score suffices for sampling: Langevin dynamics, $x \leftarrow x + \eta \nabla \log p(x) + \sqrt{2\eta}\,\epsilon$,
# converge to $p$. Between separated modes, however, the density is almost zero and convergence is slow: at the lowest
# noise level a point remains at the first mode that it reaches, whatever the weight of that mode. Song and Ermon 2019
# therefore start at a level with a single mode and lower the noise step by step (*annealed* Langevin dynamics). Both
# chains below take the same number of steps with the *exact* score of a mixture whose left mode has weight 1/8.

# %%
two_sided = np.array([[-1.0, 0.0]] + [[1.0, 0.0]] * 7)  # equal weights, so seven in one place are seven eighths
uneven, _ = exact(two_sided, 0.1)
kernel = reverse.fixed_small(process)
per_level, few = 60, POINTS // 4
start = jax.random.uniform(jax.random.key(3), (few, 2), minval=-2, maxval=2)
keys = jax.random.split(jax.random.key(4), few)
method = SAMPLERS["annealed_langevin"](snr=0.25, steps=per_level, at_start=True)
noises = schedules.geometric(10, 0.05, 2.0)
figure, axes = plt.subplots(1, 3, figsize=(11, 2.6), sharex=True, sharey=True)
whole = loop.coefficients(process, noises, grids.to_first(10, 10))
lowest = jax.tree.map(lambda field: np.repeat(field[-1:], len(whole.at.t), 0), whole)
lowest = lowest._replace(at=lowest.to)
truth = two_sided[np.arange(few) % 8] + 0.1 * np.asarray(jax.random.normal(jax.random.key(5), (few, 2)))
walked = jax.jit(lambda x, rows: loop.sample(method.step, functools.partial(uneven, None), kernel, rows, x, keys)[0])
for axis, (name, points) in zip(
    axes,
    {
        "data": truth,
        "Langevin, lowest level only": walked(start, lowest),
        "annealed Langevin, ten levels": walked(start, whole),
    }.items(),
    strict=True,
):
    points = np.asarray(points)
    axis.plot(*points.T, ".", markersize=2)
    axis.set(
        title=f"{name}\n{np.mean(points[:, 0] < 0):.1%} in the left mode",
        xlim=(-2, 2),
        ylim=(-0.8, 0.8),
        aspect="equal",
    )
    axis.set_xlabel("$x_1$")
axes[0].set_ylabel("$x_2$")

# %% [markdown]
# At the lowest level alone, half of the uniformly drawn starting points go to the left mode and stay there. With
# decreasing noise the share is close to that of the data, and gets closer with more steps per level. The recipes
# `configs/cifar10_ncsn.py` and `cifar10_ncsnv2.py` apply this method to images.

# %% [markdown]
# ## 3. Reverse SDE and probability-flow ODE
#
# In the limit of infinitely many levels the forward process is a diffusion, $dx = f x\,dt + g\,dw$. Two equations have
# the same marginal densities $p_t$ in reverse time (Song et al. 2021, eq. 6 and 13),
#
# $$dx = \big(f x - g^2\,\nabla \log p_t(x)\big)\,dt + g\,d\bar w, \qquad\qquad
# dx = \big(f x - \tfrac12 g^2\,\nabla \log p_t(x)\big)\,dt,$$
#
# a stochastic one (SDE) and a deterministic one (ODE). Both are solved here with the learned score, from the *same*
# starting points. Top: paths in the plane, from start (ring) to end (dot). Bottom: the first coordinate against time,
# over the density $p_t$ (grey).


# %%
def walker(method, predict):
    """`walk(rows, x, keys, chunk=1)`: the start and x after every `chunk` steps, [1 + len(rows)/chunk, B, 2]."""
    on = jax.jit(
        lambda x, memory, keys, rows, first: loop.sample(method.step, predict, kernel, rows, x, keys, memory, first)
    )

    def walk(rows, x, keys, chunk=1):
        memory, path = method.init_carry(x), [np.asarray(x)]
        for first in range(0, len(rows.at.t), chunk):
            part = jax.tree.map(lambda field, first=first: field[first : first + chunk], rows)
            x, memory = on(x, memory, keys, part, first)
            path.append(np.asarray(x))
        return np.stack(path)

    return walk


number, shown = POINTS // 4, 8
keys_x, keys = jax.random.split(jax.random.key(6), (2, number))
x = process.prior(schedule, keys_x, (2,))
times = grids.quadratic(100, 1e-3)
rows = loop.coefficients(process, schedule, times)
ways = {"reverse SDE": "euler_maruyama", "probability-flow ODE": "ode_heun"}
paths = {name: walker(SAMPLERS[way](), functools.partial(learned, params))(rows, x, keys) for name, way in ways.items()}

figure, axes = plt.subplots(2, 2, figsize=(10, 8.5))
wide = np.linspace(-3, 3, 241)
at = level(schedule, jnp.asarray(times))
width = np.sqrt(at.alpha**2 * RING_STD**2 + at.sigma**2)
offset = wide[:, None, None] - at.alpha[:, None] * RING_MEANS[:, 0]  # [place, time, spot]
density = np.exp(-0.5 * (offset / width[:, None]) ** 2).sum(-1)
for column, (name, path) in enumerate(paths.items()):
    axes[0, column].plot(*path[-1].T, ".", color="0.8", markersize=2, zorder=0)
    for i in range(shown):
        axes[1, column].plot(times, path[:, i, 0], color=f"C{i}", linewidth=1.1)
        if name == "probability-flow ODE" or i in (3, 5, 6):  # eight paths of the SDE cannot be told apart
            axes[0, column].plot(*path[:, i].T, color=f"C{i}", linewidth=0.9)
            axes[0, column].plot(*path[0, i], "o", color=f"C{i}", markersize=7, markeredgewidth=2, markerfacecolor="w")
            axes[0, column].plot(*path[-1, i], "o", color=f"C{i}", markersize=8)
    axes[0, column].set(title=name, xlabel="$x_1$", ylabel="$x_2$", xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
    axes[1, column].pcolormesh(times, wide, density / density.max(0), cmap="Greys", vmax=1.6, shading="nearest")
    axes[1, column].set(xlabel="time $t$", ylabel="$x_1$", xlim=(1, 0), ylim=(-3, 3))
    axes[1, column].grid(False)
for name, path in paths.items():
    distance = np.linalg.norm(path[-1][:, None] - RING_MEANS, axis=-1)
    share = np.bincount(distance.argmin(1), minlength=8) / number
    spread = np.sqrt(np.mean(distance.min(1) ** 2) / 2)
    print(
        f"{name}: share of each mode {share.min():.3f} to {share.max():.3f} (exact: 0.125; standard error "
        f"{np.sqrt(7 / 64 / number):.3f}), standard deviation of a mode {spread:.3f} (exact: {RING_STD})"
    )
ends = [np.linalg.norm(path[-1][:, None] - RING_MEANS, axis=-1).argmin(1) for path in paths.values()]
same = np.mean(ends[0] == ends[1])
print(f"starting points that SDE and ODE take to the same mode: {same:.0%}")

# %% [markdown]
# Both sets of end points have the same density, but they are different points. The ODE maps each start to one end along
# a smooth, invertible path, which gives likelihoods and encodings. The SDE forgets its start: its end is in the same
# mode as that of the ODE in one case of eight, as by chance.

# %% [markdown]
# ## 4. Sample quality against network calls
#
# The smooth paths of the ODE can be followed in few steps. This section measures the error against the number of
# network calls. With the exact score the only error is that of the solver. For deterministic solvers it is the distance
# of each end point from the exact solution, computed by 1,000 steps of Heun's method. Stochastic solvers have no exact
# end point, so for both kinds the density of the samples is compared with the data by the *sliced Wasserstein
# distance*, the mean over 32 directions of the distance between sorted projections.

# %%
COUNTS = 5, 10, 20, 40, 80
WITHOUT_NOISE = ("ddim", "ode_heun", "dpmpp_2m", "dpmpp_3m")
WITH_NOISE = ("ancestral", "euler_maruyama", "dpmpp_2m_sde")
number = POINTS
keys_x, keys = jax.random.split(jax.random.key(7), (2, number))
x = process.prior(schedule, keys_x, (2,))
truth = functools.partial(true, None)


@functools.cache
def rows_of(steps):
    """Steps of a grid that is uniform in log SNR, with a last step to t = 0."""
    return loop.coefficients(process, schedule, np.append(grids.logsnr(schedule, steps - 1, 1e-3), 0.0))


angles = np.linspace(0, np.pi, 32, endpoint=False)
directions = np.stack([np.cos(angles), np.sin(angles)])


def distance(a, b):
    """Sliced Wasserstein-2 distance of two samples of the same size."""
    return np.sqrt(np.mean((np.sort(a @ directions, 0) - np.sort(b @ directions, 0)) ** 2))


ring = [toy2d("heldout", seed=seed).read(np.arange(number))[0] for seed in range(6)]
floor = [distance(a, b) for a, b in itertools.combinations(ring, 2)]
fine = walker(SAMPLERS["ode_heun"](), truth)(rows_of(1000), x, keys, 1000)[-1]
results = {}
for name in WITHOUT_NOISE + WITH_NOISE:
    walk = walker(SAMPLERS[name](), truth)
    for steps in COUNTS:
        end = walk(rows_of(steps), x, keys, 5)[-1]
        calls = 2 * steps - 1 if name == "ode_heun" else steps  # two per step, except the last
        results.setdefault(name, []).append(
            (calls, np.sqrt(np.mean((end - fine) ** 2)), np.mean([distance(end, real) for real in ring]))
        )

figure, axes = plt.subplots(1, 2, figsize=(11, 4))
for i, (name, found) in enumerate(results.items()):
    calls, error, away = np.transpose(found)
    style = {"marker": "osD^vP*X"[i], "color": f"C{i}", "label": name, "markersize": 5}
    if name in WITHOUT_NOISE:
        axes[0].loglog(calls, error, **style)
    axes[1].loglog(calls, away, linestyle="-" if name in WITHOUT_NOISE else "--", **style)
axes[1].axhspan(min(floor), max(floor), color="k", alpha=0.12, label="between data sets")
axes[0].set(title="Error of the ODE solution", ylabel="RMS error of the end point")
axes[1].set(title=f"Distance from the data, {number:,} samples", ylabel="sliced Wasserstein distance")
axes[1].yaxis.set_minor_formatter("{x:g}")
for axis in axes:
    axis.set(xlabel="network calls per sample", xticks=[5, 10, 20, 40, 80, 160], xticklabels=[5, 10, 20, 40, 80, 160])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.legend(fontsize="small")
for name in WITHOUT_NOISE:
    calls, error, _ = np.transpose(results[name])
    print(f"{name:12} error falls as calls^{np.polyfit(np.log(calls[-3:]), np.log(error[-3:]), 1)[0]:.1f}")

# %% [markdown]
# Left: the slope of each line is the order of the solver; the third-order solver is best at high precision. Right: the
# density does not need that precision. The grey band is the distance between two data sets of this size. From twenty
# calls on every method is within the band, and more calls have no measurable effect.
#
# With a trained network on images the exact score is unknown, and the error of the network limits every solver. The
# command `main frontier` measures the Fréchet distance against network calls for a trained model:


# %%
def places_of(variable, default):
    """Directories named by an environment variable, relative to the root of the repository."""
    return [ROOT / path for path in os.environ.get(variable, default).split(os.pathsep)]


def newest(run, name):
    """Return the newest file or directory of this name among a run's evaluations, or None."""
    return max(run.glob(f"evaluation/*/{name}"), key=os.path.getmtime, default=None)


for run in places_of("FRONTIERS", "runs/digits"):
    folder = newest(run, "frontier")
    if folder is None:
        print(f"{run.name}: no frontier to read; make it by `main frontier`, see above, or go on without")
        continue
    cells = frontier.read_cells(folder)
    figures = folder.parent / "figures.json"
    held_back = json.loads(figures.read_text()).get("heldout_frechet_pixels") if figures.exists() else None
    curves = {}
    for cell in cells:
        curves.setdefault(f"{cell['sampler']}, {cell['grid']}", []).append(cell)
    figure, axis = plt.subplots(figsize=(7.5, 3.8))
    for i, (label, curve) in enumerate(curves.items()):
        calls, value, low, high = np.transpose(
            [
                [cell[key] for key in ("network_calls", "frechet_pixels", "frechet_low", "frechet_high")]
                for cell in curve
            ]
        )
        marker = "osD^vP*X"[i % 8]
        axis.errorbar(calls, value, [value - low, high - value], marker=marker, markersize=5, capsize=3, label=label)
    if held_back:
        axis.axhline(held_back, color="k", linestyle=":", label="held-out data")
    axis.set(xscale="log", yscale="log", xlabel="network calls per sample", ylabel="Fréchet distance of pixels")
    axis.set_title(f"{run.name}, {cells[0]['num_samples']:,} samples per point (bars: 95 % intervals)")
    figure.legend(loc="outside right upper", fontsize="small")
    best = min(cell["frechet_pixels"] for cell in cells)
    near = min((cell for cell in cells if cell["frechet_low"] <= best), key=lambda cell: cell["network_calls"])
    print(
        f"{run.name}: the lowest distance is {best:.4g}; the fewest calls whose interval reaches it are "
        f"{near['network_calls']}, of {near['sampler']} on {near['grid']}"
    )

# %% [markdown]
# ## 5. Guidance
#
# A class-conditional model with label dropout has two scores, with and without the class $y$. Their difference is the
# score of a classifier, $\nabla \log p_t(y \mid x)$, by Bayes' rule, and classifier-free guidance (Ho and Salimans
# 2022) adds $w$ times this difference:
#
# $$\nabla \log p_t(x) + w\,\big(\nabla \log p_t(x \mid y) - \nabla \log p_t(x)\big).$$
#
# $w = 1$ is the class-conditional density. For $w > 1$ samples move to regions where the class is *certain*, which are
# not the regions of its highest density. The next cell shows this for three overlapping classes with exact scores.

# %%
triangle = 1.1 * np.stack(
    [np.cos(np.pi * (0.5 + np.arange(3) * 2 / 3)), np.sin(np.pi * (0.5 + np.arange(3) * 2 / 3))], -1
)
OVERLAP = 0.6
conditional, log_class = exact(triangle, OVERLAP)
scales = [0.0, 1.0, 2.0, 4.0]
number = POINTS // 4
label = jnp.arange(number) % 3
keys_x, keys = jax.random.split(jax.random.key(8), (2, number))
x = process.prior(schedule, keys_x, (2,))
rows = rows_of(40)
clean = level(schedule, jnp.zeros(number))
dpmpp_2m = SAMPLERS["dpmpp_2m"]()
figure, axes = plt.subplots(1, len(scales), figsize=(12, 3.2), sharex=True, sharey=True)
exact_rows = []
for axis, scale in zip(axes, scales, strict=True):
    guided = guidance.classifier_free(conditional, scale)
    walk = walker(dpmpp_2m, lambda x, at, guided=guided: guided(None, x, at, label, None))
    end = walk(rows, x, keys, len(rows.at.t))[-1]
    agreement = np.mean(np.argmax(log_class(end, clean), 1) == label)
    within = np.mean([np.sqrt(np.trace(np.cov(end[label == k].T)) / 2) for k in range(3)]) / OVERLAP
    exact_rows.append((scale, agreement, within))
    axis.scatter(*end.T, s=2, c=[f"C{k}" for k in np.asarray(label)])
    axis.set(title=f"guidance scale w = {scale:g}", aspect="equal", xlim=(-3.5, 3.5), ylim=(-3.2, 3.8), xlabel="$x_1$")
    print(f"w = {scale:g}: {agreement:.0%} in the region of their class, standard deviation {within:.2f} of the data's")
axes[0].set_ylabel("$x_2$")

# %% [markdown]
# At $w = 0$ the class has no effect. At $w = 1$ the classes overlap as in the data. With growing $w$ each class moves
# away from the others, beyond its own centre, and contracts.
#
# The next cell adds the same measurement on digits. *Agreement* is the share of samples to which an SVM assigns the
# requested class. *Diversity* is the standard deviation within a class relative to that of the data.

# %%
curves = {"three classes, exact score": np.transpose(exact_rows)}
for run in places_of("GUIDED", "runs/digits_cond"):
    file = newest(run, "guidance.csv")
    if file is None:
        print(f"{run.name}: no guidance to read; make it by `main evaluate --scales`, see above, or go on without")
        continue
    with file.open() as lines:
        found = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(lines)]
    curves[run.name] = np.transpose([(row["scale"], row["svm_agreement"], row["class_diversity"]) for row in found])
    print(f"{run.name}, {found[0]['num_samples']:,.0f} samples at each scale")
    for row in found:
        print(
            f"  w = {row['scale']:g}: agreement {row['svm_agreement']:.1%}, diversity {row['class_diversity']:.2f}, "
            f"Fréchet distance of pixels {row['frechet_pixels']:.4g}, {row['network_calls']:.0f} calls"
        )
figure, axes = plt.subplots(1, 2, figsize=(10, 3.4))
for i, (name, (scale, agreement, diversity)) in enumerate(curves.items()):
    axes[0].plot(scale, agreement, "o-", color=f"C{i}", label=f"{name}: agreement")
    axes[0].plot(scale, diversity, "s--", color=f"C{i}", label=f"{name}: diversity")
    axes[1].plot(diversity, agreement, "o-", color=f"C{i}", label=name)
    for w, place in zip(scale, zip(diversity, agreement, strict=True), strict=True):
        axes[1].annotate(f"{w:g}", place, textcoords="offset points", xytext=(5, -9), fontsize="x-small")
axes[0].set(
    xlabel="guidance scale w", ylabel="agreement, diversity", ylim=(0, None), title="Effect of the guidance scale"
)
axes[1].set(xlabel="diversity within a class (data: 1)", ylabel="agreement with the requested class")
axes[1].set_title("Trade-off (numbers: guidance scale)")
for axis in axes:
    axis.legend(fontsize="small")

# %% [markdown]
# Agreement is gained at the expense of diversity. Most of the gain comes at small $w$; beyond the bend of the curve on
# the right, diversity falls without a gain.
