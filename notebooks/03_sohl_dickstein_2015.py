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
# # 3. The origin: Sohl-Dickstein et al. 2015
#
# Five years before DDPM this paper had the whole construction: a fixed process that destroys structure step by step, a
# network that learns to reverse one step, and a bound on the likelihood that is a sum over the steps. It differs from
# DDPM in three ways: the rates of the process are *learned*, binary data have a process of their own, and the bound $K$
# is computed from entropies, in bits per example. This notebook reads runs, which these commands make on two CPU cores:
#
#     python -m diffusion_jax.main train    --config=configs/dpm2015_swissroll.py --workdir=runs/swissroll
#     python -m diffusion_jax.main evaluate --workdir=runs/swissroll --likelihood=K
#     # the same two for configs/dpm2015_heartbeat.py (runs/heartbeat) and dpm2015_deadleaves.py (runs/deadleaves)
#     python -m diffusion_jax.main sweep    --sweep=configs/sweeps/dpm2015_rates.py --workdir=runs/dpm2015_rates
#
# The environment variable `RUNS` names the directory that holds all four (`runs` by default). Missing runs are skipped.

# %%
import itertools
import json
import logging
import os
import pathlib

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import diffusion_jax
from diffusion_jax.analysis import restoring, sweeps
from diffusion_jax.experiment import paths, sources
from diffusion_jax.process.base import in_float64, level, normal
from diffusion_jax.runs import trained
from diffusion_jax.runs.pictures import grid
from diffusion_jax.sampling import degradation

plt.style.use("tableau-colorblind10")
plt.rcParams.update({"figure.dpi": 120, "figure.constrained_layout.use": True, "axes.grid": True, "grid.alpha": 0.3})
logging.getLogger("diffusion_jax").setLevel(logging.ERROR)
ROOT = pathlib.Path(diffusion_jax.__file__).parent.parent
RUNS = ROOT / os.environ.get("RUNS", "runs")

runs, figures, curves = {}, {}, {}
for name in ("swissroll", "heartbeat", "deadleaves"):
    found = sorted((RUNS / name).glob("evaluation/*/K.npz"), key=os.path.getmtime)
    if not found:
        print(f"{name}: no bound K to read; make it by the commands above, or go on without")
        continue
    runs[name] = trained.load(str(RUNS / name))
    figures[name] = json.loads((found[-1].parent / "figures.json").read_text())
    curves[name] = dict(np.load(found[-1]))
    config = runs[name].config
    print(
        f"{name}: T = {config.process.num_steps}, {config.process.name} process, rates {config.schedule.name}, network "
        f"{config.network.name}, {runs[name].step:,} steps of training"
    )
if not runs:
    raise FileNotFoundError("there is no run to read: make one by the commands above, or name their folder in RUNS")

# %% [markdown]
# ## 1. Table 1
#
# The bound is $K = -\sum_{k=2}^{T} \mathrm{KL} + H_q(X^T|X^0) - H_q(X^1|X^0) - H_p(X^T)$. The null model is the prior
# alone: independent unit Gaussians, or independent bits. The step from $x^1$ to $x^0$ is not modelled, so $K$ cannot
# exceed $-H(X^1)$. The last column has the values that the paper reports for $K$ and $K - L_{\mathrm{null}}$. They are
# not comparable digit by digit: the paper gives neither the noise of its swiss roll nor the construction of its dead
# leaves, and the noise determines the attainable $K$. For the swiss roll compare $K$ with $-H(x_1)$ instead.

# %%
PAPER = {"swissroll": (2.35, 6.45), "heartbeat": (-2.414, 12.024), "deadleaves": (1.489, 3.536)}
print(f"{'':12}{'unit':14}{'K':>18}{'K - L_null':>12}{'-H(x_1)':>10}{'-H(x_0)':>10}{'paper K, K - L_null':>22}")
for name, f in figures.items():
    ends = [
        f"{f[key]:10.3f}" if key in f else f"{'':10}"
        for key in ("negative_entropy_x1_bits", "negative_entropy_x0_bits")
    ]
    paper = f"{PAPER[name][0]:.3f}, {PAPER[name][1]:.3f}"
    K = f"{f['K_bits']:.3f} ± {f['K_stderr']:.3f}"
    print(f"{name:12}{f['K_unit']:14}{K:>18}{f['K_minus_null_bits']:12.3f}{ends[0]}{ends[1]}{paper:>22}")
    print(
        f"{'':12}{f['K_bits_per_dim']:.3f} bits/dim (the negative log-likelihood that later papers report)"
        + (f"; {f['K_note']}" if "K_note" in f else "")
    )

# %% [markdown]
# ## 2. Entropy bounds of every step
#
# The entropy of a reverse step lies between $H_q(X^t|X^{t-1}) + H_q(X^{t-1}|X^0) - H_q(X^t|X^0)$ and
# $H_q(X^t|X^{t-1})$, both known in closed form. The entropy of the model's step is the lower bound plus the KL
# divergence of the step; the sum of these divergences is subtracted in $K$. The plot scales each step such that the
# lower bound is 0 and the upper bound 1.

# %%
figure, axes = plt.subplots(1, len(curves), figsize=(4.2 * len(curves), 3.2), squeeze=False)
for axis, (name, c) in zip(axes[0], curves.items(), strict=True):
    width = np.maximum(c["upper_bits"] - c["lower_bits"], 1e-12)
    axis.plot(c["t"], (c["model_bits"] - c["lower_bits"]) / width)
    axis.fill_between(c["t"], 0, 1, alpha=0.15)
    title = f"{name}: KL {c['kl_bits'].sum():.2f} {figures[name]['K_unit']}"
    axis.set(title=title, xlabel="time $t$", ylim=(-0.05, 1.4))
    inside = np.mean((c["model_bits"] > c["lower_bits"]) & (c["model_bits"] < c["upper_bits"]))
    print(f"{name}: {inside:.1%} of the steps between the bounds")
axes[0, 0].set_ylabel("scaled entropy of the step")

# %% [markdown]
# ## 3. Forward and reverse process on the swiss roll
#
# Figure 1 of the paper. Top: the forward process $q$ at three times. Middle: the reverse process $p$ of the model at
# the same times. Bottom: the drift, which is the mean of a reverse step minus its starting point.

# %%
if "swissroll" in runs:
    run = runs["swissroll"]
    config, experiment, T = run.config, run.experiment, run.config.process.num_steps
    heldout = sources.source(config, "heldout")
    x0 = heldout.read(np.arange(min(2000, heldout.size)))[0]
    schedule, sampler = experiment.schedule(None), experiment.sampler
    noise = normal(jax.random.split(jax.random.key(0), len(x0)), (2,))
    rows = sampler.coefficients(None)
    x, keys = sampler.start(run.params, jnp.arange(2000, dtype=jnp.uint32))
    walk = jax.jit(sampler.walk)
    cuts = [0, len(rows.at.t) // 2, len(rows.at.t)]
    memory, back = sampler.init_carry(x), [x]
    for a, b in itertools.pairwise(cuts):
        x, memory = walk(run.params, x, memory, keys, jax.tree.map(lambda f, a=a, b=b: f[a:b], rows), a)
        back.append(x)
    places = np.stack(np.meshgrid(np.linspace(-2.2, 2.2, 17), np.linspace(-2.2, 2.2, 17)), -1).reshape(-1, 2)
    figure, axes = plt.subplots(3, 3, figsize=(9, 9))
    times = [float(rows.to.t[-1]), float(rows.at.t[cuts[1]]), 1.0]
    for column, (t, sample, i) in enumerate(zip(times, reversed(back), [cuts[2] - 1, cuts[1], 0], strict=True)):
        at = level(schedule, jnp.full(len(x0), t, jnp.float32))
        axes[0, column].scatter(*np.asarray(experiment.process.corrupt(at, x0, noise)).T, s=2)
        axes[0, column].set_title(f"forward process, t = {t:.2f}")
        axes[1, column].scatter(*np.asarray(sample).T, s=2, color="C1")
        axes[1, column].set_title(f"reverse process, t = {t:.2f}")
        row = jax.tree.map(lambda f, i=i: jnp.full(len(places), f[i], jnp.float32), rows)
        here = jnp.asarray(places, jnp.float32)
        mean, _ = experiment.reverse(row, experiment.predict(run.params, here, row.at, None, None), here)
        axes[2, column].quiver(*places.T, *np.asarray(mean - here).T, color="C3")
        axes[2, column].set_title(f"drift, t = {float(rows.at.t[i]):.2f}")
    for axis in axes.ravel():
        axis.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
    for axis in axes[-1]:
        axis.set_xlabel("$x_1$")
    for axis in axes[:, 0]:
        axis.set_ylabel("$x_2$")
    plt.show()

# %% [markdown]
# ## 4. Learned rates
#
# With frozen noise $K$ can be differentiated with respect to the rates $\beta_2 … \beta_T$. $\beta_1$ is fixed, since
# it would otherwise shrink without limit. The rates start at 1/linspace(T, 2, T). The plot shows the rates before and
# after training, and the noise levels that follow from them.

# %%
if "swissroll" in runs and config.schedule.name == "learned_betas":
    k = np.arange(T + 1)
    betas = {
        name: -np.expm1(2 * np.diff(in_float64(path, k / T)[0]))
        for name, path in (("initial", paths.initial_schedule(config)), ("learned", schedule))
    }
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    for name, beta in betas.items():
        axes[0].semilogy(k[1:], beta, label=name)
        gamma = np.log(np.expm1(-np.cumsum(np.log1p(-beta))))
        axes[1].plot(k[1:], gamma, label=name)
    axes[0].set(xlabel="step $k$", ylabel=r"$\beta_k$", title="Rates")
    axes[1].set(xlabel="step $k$", ylabel=r"$\log\,\sigma^2/\alpha^2$", title="Log noise-to-signal ratio")
    axes[0].legend()
    plt.show()

# %% [markdown]
# The next cell compares $K$ for fixed rates (`fixed`), one free rate per step (`learned`), and rates parameterised by
# ten bumps in time (`bumps`), with everything else equal. `fixed_as_code` has the larger first rate of the public code.

# %%
directory = RUNS / "dpm2015_rates"
K = {}
if (directory / sweeps.GRID).is_file():
    for path in sorted(directory.glob("*/seed*/result.json")):
        result = json.loads(path.read_text())
        if result["status"] == "finished":
            K.setdefault(path.parent.parent.name, []).append(result["figures"]["K_bits"])
    for name, values in K.items():
        error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
        print(f"{name:14} K = {np.mean(values):.3f} ± {error:.3f} bits, {len(values)} seeds")
    best = max(K, key=lambda name: np.mean(K[name]))
    if "fixed" in K:
        print(f"best: {best}, {np.mean(K[best]) - np.mean(K['fixed']):.3f} bits above the fixed rates")
else:
    print("no sweep to read; make it by the commands above, or go on without")

# %% [markdown]
# ## 5. Heartbeats
#
# The binomial process of binary data redraws each bit with a small probability per step. A sample is a valid heartbeat
# if exactly every fifth bit is a one. The reverse chain ends at $x^1$, so a few samples keep a bit that was flipped in
# the first step.

# %%
if "heartbeat" in runs:
    seeds, samples = trained.draw(runs["heartbeat"], 40)
    figure, axis = plt.subplots(figsize=(5, 5))
    axis.imshow(samples, cmap="gray_r", aspect="auto", interpolation="nearest")
    axis.set(title="40 samples of the heartbeat model", xlabel="bit", ylabel="sample")
    axis.set_xticks(range(0, samples.shape[1], 5))
    axis.grid(False)
    plt.show()
    f = figures["heartbeat"]
    if "heartbeat_valid" in f:
        print(
            f"of {f['num_samples']:,} samples {f['heartbeat_valid']:.2%} are heartbeats; the rarest phase has "
            f"{f['heartbeat_rarest_phase']:.1%}, the commonest {f['heartbeat_commonest_phase']:.1%}"
        )

# %% [markdown]
# ## 6. Dead leaves
#
# The data are discs that occlude one another, with radii from a power law. Left: held-out data; right: samples of the
# model.

# %%
if "deadleaves" in runs:
    run = runs["deadleaves"]
    real = sources.source(run.config, "heldout").read(np.arange(16))[0]
    seeds, samples = trained.draw(run, 16)
    figure, axes = plt.subplots(1, 2, figsize=(6.5, 3.4))
    for axis, images, title in zip(axes, (real, samples), ("held-out data", "samples of the model"), strict=True):
        axis.imshow(grid(images, 256, columns=4), cmap="gray", vmin=0, vmax=255)
        axis.set(title=title, xticks=[], yticks=[])
        axis.grid(False)
    plt.show()

# %% [markdown]
# ## 7. Inpainting
#
# To sample the rest of a picture given a known part, the paper multiplies the kernel of every reverse step by $r(x)$,
# the likelihood of the known part (section 2.5). `constant` is the paper's inpainting: the known pixels have their
# clean values at all noise levels, although the model was trained on noisy ones. `renoise` (later work) adds the noise
# of each step to the known pixels.
#
# The printed RMSE is over the missing pixels, in 255ths of the range. It does not measure the plausibility of a
# completion: filling the hole with the mean grey has a smaller RMSE than a sample, since two samples differ from each
# other more than from their mean. This model, trained for nine minutes, continues edges and texture, but draws no
# discs.

# %%
if "deadleaves" in runs:
    shape = tuple(runs["deadleaves"].config.data.shape)
    hole, drawn = degradation.missing(shape, "box", share=0.25), {}
    for rule in ("constant", "renoise"):
        arrays, errors = restoring.restore(runs["deadleaves"], hole, rule, number=6)
        drawn = {"original": arrays["original"], "known": arrays["degraded"]} | drawn | {rule: arrays["restored"]}
        print(f"{rule:9} RMSE {errors['rmse']:6.2f}, left at the mean {errors['rmse_degraded']:6.2f}")
    figure, axes = plt.subplots(len(drawn), 1, figsize=(5, 0.95 * len(drawn)))
    figure.suptitle("Inpainting of a missing square")
    for axis, (name, images) in zip(axes, drawn.items(), strict=True):
        axis.imshow(grid(images, 256, columns=6), cmap="gray", vmin=0, vmax=255)
        axis.set(xticks=[], yticks=[])
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
        axis.grid(False)
    plt.show()
