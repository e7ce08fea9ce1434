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
# # 1. Foundations
#
# Diffusion models from first principles: Sohl-Dickstein et al. 2015, in the notation of Ho et al. 2020. Every step is
# computed on 1,500 scans of handwritten digits, 8 x 8 pixels, without training. This is possible because the optimal
# denoiser of a *finite* set of images has a closed form. A network is needed to generalise beyond those images.
#
# All pictures and numbers come from the package's own functions, so each equation stands next to its code. The
# plain-text twin of this notebook is `01_foundations.py`; `python launch/notebooks.py 01_foundations` runs it in about
# a minute.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from diffusion_jax.data.embedded import digits
from diffusion_jax.data.scaling import to_model
from diffusion_jax.objective import losses, reverse, targets
from diffusion_jax.objective.prediction import Prediction
from diffusion_jax.process import schedules
from diffusion_jax.process.base import expand, level
from diffusion_jax.process.gaussian import GaussianProcess, step_coefficients
from diffusion_jax.sampling import grids, loop
from diffusion_jax.sampling.ddpm import ancestral

jax.config.update("jax_enable_x64", True)  # closed forms are compared to many digits below
plt.style.use("tableau-colorblind10")
plt.rcParams.update({"figure.dpi": 120, "figure.constrained_layout.use": True, "axes.grid": True, "grid.alpha": 0.3})


def read(split):
    """One split as float64 [N, 64] in [-1, 1] (no ink, full ink), and its labels [N]."""
    source = digits(split)
    x, label = source.read(np.arange(source.size))
    return np.asarray(to_model(x, source.levels), np.float64).reshape(source.size, 64), label


def show(axis, images, columns, title=""):
    """Tile images [N, 64] on an axis, row by row, ink dark."""
    images = np.pad(np.asarray(images).reshape(-1, columns, 8, 8), ((0, 0), (0, 0), (1, 0), (1, 0)), constant_values=-1)
    axis.imshow(images.transpose(0, 2, 1, 3).reshape(-1, columns * 9), cmap="gray_r", vmin=-1, vmax=1)
    axis.set_axis_off()
    axis.set_title(title, fontsize="medium")


train, train_label = read("train")
heldout, _ = read("heldout")
figure, axis = plt.subplots(figsize=(9, 1.6))
show(axis, train[:20], 20, "twenty of the 1,500 training digits")
print(f"{len(train)} training digits, {len(heldout)} held out; pixels from {train.min():.0f} to {train.max():.0f}")

# %% [markdown]
# ## 1. Why a simple distribution is needed
#
# A model of images has two tasks: to draw an image, and to compute the probability of one. A *flexible* density is easy
# to write down, $p(x) = e^{-E(x)}/Z$ with any network for $E$, but $Z$ is a sum over all images, here $17^{64}$ of
# them. A *simple* density such as a Gaussian can be summed, inverted and sampled exactly, but does not resemble data.

# %%
RIDGE = 1e-3  # three pixels never carry ink; without it their variance would be zero
mean = train.mean(0)
covariance = np.cov(train.T, bias=True) + RIDGE * np.eye(64)

rng = np.random.default_rng(0)
independent = mean + np.sqrt(np.diag(covariance)) * rng.standard_normal((1000, 64))
correlated = rng.multivariate_normal(mean, covariance, 1000)

figure, axes = plt.subplots(3, 1, figsize=(8, 3.6))
show(axes[0], train[:16], 16, "data")
show(axes[1], correlated[:16], 16, "drawn from a Gaussian with the mean and the covariance of the data")
show(axes[2], independent[:16], 16, "drawn from a Gaussian with independent pixels")
print(f"images that Z would have to sum over: 17^64 = 10^{64 * np.log10(17):.0f}")
print(f"pixel values that the Gaussian puts outside [-1, 1]: {np.mean(np.abs(correlated) > 1):.0%} (data: none)")

# %% [markdown]
# The Gaussian has the right means and correlations, and its samples are not digits: pixels are bimodal (ink or no ink),
# and digits come in ten classes, neither of which a mean and a covariance describe. Diffusion models keep the simple
# density as a *starting point* and connect it to the data by many steps, each so small that a simple density suffices
# for it.

# %% [markdown]
# ## 2. The forward process and its noise schedule
#
# The forward process is fixed; nothing in it is learned. Step $k$ of $T$ shrinks the image slightly and adds a little
# noise,
#
# $$q(x_k \mid x_{k-1}) = \mathcal N\big(\sqrt{1-\beta_k}\,x_{k-1},\ \beta_k I\big),$$
#
# and since Gaussians compose, any level is reached in one step (Ho et al. 2020, eq. 4). With $t = k/T$,
#
# $$q(x_t \mid x_0) = \mathcal N\big(\alpha_t x_0,\ \sigma_t^2 I\big), \qquad
# \alpha_t^2 = \bar\alpha_k = \prod_{i \le k} (1-\beta_i), \qquad \sigma_t^2 = 1 - \alpha_t^2 .$$
#
# In the code a schedule is a function `t -> (log alpha, log sigma)`; `level` evaluates it, and `process.corrupt` draws
# from $q(x_t \mid x_0)$.

# %%
T = 1000
process = GaussianProcess()
linear, cosine = schedules.linear(T), schedules.cosine(T)

signal, variance = 1.0, 0.0
for beta in np.linspace(1e-4, 0.02, T):  # one step at a time: scale what is there, add beta
    signal, variance = signal * np.sqrt(1 - beta), variance * (1 - beta) + beta
end = level(linear, jnp.ones(()))
np.testing.assert_allclose([signal, variance], [end.alpha, end.sigma**2], rtol=1e-10)
print(f"1,000 steps and one jump agree: alpha(1)² = {end.alpha**2:.4e}, sigma(1)² = {end.sigma**2:.6f}")

times = jnp.array([0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0])
noise = jax.random.normal(jax.random.key(0), (64,))
figure, axes = plt.subplots(2, 1, figsize=(8, 2.6))
for axis, (name, schedule) in zip(axes, {"linear": linear, "cosine": cosine}.items(), strict=True):
    x_t = process.corrupt(level(schedule, times), jnp.tile(train[3], (10, 1)), jnp.tile(noise, (10, 1)))
    show(axis, x_t, 10, f"{name}: x_t at t = " + ", ".join(f"{t:.2g}" for t in times))

# %% [markdown]
# The schedule determines how the work is distributed over the steps. The loss of information can be counted: if $x_0$
# is one of the 1,500 training digits, $q(i \mid x_t) \propto \exp(-\lVert x_t - \alpha_t x^i\rVert^2 / 2\sigma_t^2)$ is
# the posterior probability of digit $i$, and the entropy of these weights is the number of bits about $x_0$ that are
# lost. The rest of this notebook needs only these weights: they give the exact denoiser, and hence the exact reverse
# process.


# %%
def log_weights(x_t, at, points=train, width=0.0):
    """log q(i | x_t) [B, N]: which point x_t [B, 64] came from, if x0 ~ 1/N sum_i N(points[i], width² I)."""
    alpha, sigma = expand(at.alpha, x_t), expand(at.sigma, x_t)
    square = jnp.sum(x_t**2, 1, keepdims=True) - 2 * alpha * (x_t @ points.T) + alpha**2 * jnp.sum(points**2, 1)
    return jax.nn.log_softmax(-0.5 * square / ((alpha * width) ** 2 + sigma**2), axis=1)


@jax.jit
def bits_left(at):
    """Mutual information of x_t with the training digit and with its class, in bits, over 300 digits."""
    x_t = process.corrupt(at, train[:300], jax.random.normal(jax.random.key(1), (300, 64)))
    log_w = log_weights(x_t, at)
    in_class = jnp.exp(log_w) @ jnp.eye(10)[train_label]
    of_digit = jnp.log(len(train)) + jnp.mean(jnp.sum(jnp.exp(log_w) * log_w, 1))
    of_class = jax.scipy.special.entr(np.bincount(train_label) / len(train)).sum()
    of_class -= jnp.mean(jax.scipy.special.entr(in_class).sum(1))
    return jnp.stack([of_digit, of_class]) / jnp.log(2)


grid = jnp.linspace(0.02, 1, 50)
figure, axes = plt.subplots(1, 3, figsize=(11, 3))
for name, schedule in {"linear": linear, "cosine": cosine}.items():
    at = level(schedule, grid)
    left = jax.lax.map(bits_left, at)
    axes[0].plot(grid, at.alpha**2, label=name)
    axes[0].plot(grid, at.sigma**2, "--", color=axes[0].lines[-1].get_color())
    axes[1].plot(grid, at.logsnr, label=name)
    axes[2].plot(grid, left[:, 0], label=name)
    axes[2].plot(grid, left[:, 1], "--", color=axes[2].lines[-1].get_color())
    half = grid[jnp.argmin(jnp.abs(left[:, 1] - np.log2(10) / 2))]
    print(f"{name}: half of the information about the class is lost at t = {half:.2f}")
axes[0].set(title=r"Signal $\alpha^2$ (solid), noise $\sigma^2$ (dashed)")
axes[1].set(title=r"Log signal-to-noise ratio, $\log\,\alpha^2/\sigma^2$")
axes[2].set(title=r"Information in $x_t$ about digit (solid)" "\nand class (dashed)", ylabel="bits")
for axis, place in zip(axes, ["center right", "lower left", "upper right"], strict=True):
    axis.set(xlabel="t")
    axis.legend(loc=place)

# %% [markdown]
# On images this small the linear schedule has destroyed nearly all information at $t = 0.6$, so the last 400 of its
# 1,000 steps have little effect; the cosine schedule (Nichol and Dhariwal 2021) distributes the loss more evenly.
# (Larger images, whose neighbouring pixels are redundant, survive more noise.) The information about the individual
# *scan* is lost first, that about the *class* later. In reverse, a sample acquires its coarse features first.

# %% [markdown]
# ## 3. Why the reversal is Gaussian at small steps
#
# A step from $t$ to $s < t$ needs $q(x_s \mid x_t)$, without $x_0$. Averaging over the digits from which $x_t$ may have
# come,
#
# $$q(x_s \mid x_t) = \sum_i q(i \mid x_t)\; q(x_s \mid x_t, x_0 = x^i),$$
#
# is a mixture of Gaussians (derived in section 4) with known components. By Bayes' rule it is also proportional to
# $q(x_t \mid x_s)\,q(x_s)$: a Gaussian in $x_s$ as narrow as the step, times a density that is almost log-linear over
# such a short distance. Below: the density of one pixel of $x_s$ for shorter and shorter steps, and its divergence from
# a Gaussian in nats.

# %%
PIXEL = 8 * 3 + 3
grey, grey_of = np.unique(train[:, PIXEL], return_inverse=True)  # the 17 values that this pixel takes


def step(t, s):
    """The row of one step t -> s of the linear schedule."""
    return step_coefficients(level(linear, jnp.asarray(t)), level(linear, jnp.asarray(s)))


def reversal(x_t, t, s, z):
    """Densities [B, Z] of (x_s - mean)/std at `z`, of the pixel given the whole x_t: exact, and with fixed variance."""
    row = step(t, s)
    weights = np.exp(log_weights(x_t, row.at)) @ np.eye(len(grey))[grey_of]  # q(x0 = grey | x_t), [B, 17]
    means, log_var = process.posterior(row, grey, x_t[:, PIXEL : PIXEL + 1])  # one Gaussian for each grey level
    mean = np.sum(weights * means, 1, keepdims=True)
    std = np.sqrt(np.sum(weights * (means - mean) ** 2, 1, keepdims=True) + np.exp(log_var))
    offset = (mean + std * z)[:, None, :] - means[:, :, None]
    kernels = np.exp(-0.5 * offset**2 / np.exp(log_var)) / np.sqrt(2 * np.pi * np.exp(log_var))
    fixed = np.exp(-0.5 * (std * z) ** 2 / np.exp(log_var)) / np.sqrt(2 * np.pi * np.exp(log_var))
    return std * np.einsum("bg,bgz->bz", weights, kernels), std * fixed


def nats(p, q, z):
    """KL(p || q) on the grid z; p log(p/q) - p + q is never negative, which keeps tiny divergences exact."""
    p, q = np.maximum(p, 1e-300), np.maximum(q, 1e-300)
    return np.sum(p * np.log(p / q) - p + q, -1) * (z[1] - z[0])


START = 0.4
z = np.linspace(-9, 9, 1201)
normal_density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
x_t = process.corrupt(step(START, 0.0).at, train[:100], np.random.default_rng(2).standard_normal((100, 64)))
lengths = np.array([380, 350, 300, 200, 100, 50, 20, 10, 5, 2, 1]) / T
bent, moved = np.transpose(
    [
        (nats(exact, normal_density, z).mean(), nats(exact, fixed, z).mean())
        for exact, fixed in (reversal(x_t, START, START - length, z) for length in lengths)
    ]
)

figure, axes = plt.subplots(1, 4, figsize=(13, 3), width_ratios=[1, 1, 1, 1.4])
example = int(np.argmax(jnp.exp(log_weights(x_t, step(START, 0.0).at)) @ train[:, PIXEL] ** 2 < 0.35))
for axis, length in zip(axes[:3], [0.38, 0.3, 0.02], strict=True):
    axis.plot(z, reversal(x_t[example : example + 1], START, START - length, z)[0][0], label="exact")
    axis.plot(z, normal_density, "--", label="Gaussian")
    axis.set(
        title=f"t = {START} to s = {START - length:.2f}", xlabel=r"($x_s$ - mean) / std of one pixel", xlim=(-4, 4)
    )
    axis.legend(fontsize="small")
axes[3].loglog(lengths, bent, "o-", label="Gaussian, exact mean and variance")
axes[3].loglog(lengths, moved, "s-", label=r"Gaussian, exact mean, variance $\tilde\beta$")
axes[3].set(xlabel="step t - s", ylabel="nats", title="KL of the exact reversal of one pixel to a Gaussian")
axes[3].legend(fontsize="small")
fit = slice(-4, None)
slopes = [np.polyfit(np.log(lengths[fit]), np.log(kl[fit]), 1)[0] for kl in (bent, moved)]
print(f"KL falls as (t - s)^{slopes[0]:.2f}, or as (t - s)^{slopes[1]:.2f} with a fixed variance")
for length, a, b in zip(lengths, bent, moved, strict=True):
    print(f"t - s = {length:5.3f}   {a:.1e} nats   {b:.1e} nats")

# %% [markdown]
# For a long step the amount of ink is undecided, and the density has several modes; for a short step it is slightly
# skewed. The divergence from the best Gaussian falls with the third power of the step, and with the second power if the
# variance is fixed, as in Ho et al. $T$ steps of length $1/T$ then cost about $T^{-2}$ or $T^{-1}$ in total: a thousand
# simple steps achieve what a single step cannot.

# %% [markdown]
# ### Information in neighbouring pixels
#
# The mean of that Gaussian has to be learned, and it is learnable because pixels depend on each other. We restrict the
# exact denoiser $\mathbb E[x_0 \mid x_t]$ to one pixel, to 3 x 3 pixels, or to the whole image, and evaluate it on
# *held-out* digits. The training digits are smoothed for this: each becomes a narrow Gaussian, whose width is chosen by
# leave-one-out likelihood. (Without smoothing, the exact denoiser returns training digits only, and its error on new
# ones is the distance to the nearest.)

# %%
distance = np.sum(train**2, 1)[:, None] - 2 * train @ train.T + np.sum(train**2, 1)
np.fill_diagonal(distance, np.inf)
nearest = np.sqrt(distance.min(1) / 64).mean()
widths = np.array([0.1, 0.15, 0.2, 0.25, 0.3, 0.4])
fits = [
    np.mean(jax.nn.logsumexp(-0.5 * distance / w**2, axis=1)) / 64
    - np.log(len(train) - 1) / 64
    - 0.5 * np.log(2 * np.pi * w**2)
    for w in widths
]
WIDTH = widths[np.argmax(fits)]
print(f"RMS distance per pixel to the nearest other digit: {nearest:.3f}; width chosen: {WIDTH}")

row_of, column_of = np.divmod(np.arange(64), 8)
near = np.maximum(abs(row_of[:, None] - row_of), abs(column_of[:, None] - column_of)) <= 1
VIEWS = {"its own value": np.eye(64), "3 x 3 pixels": near.astype(float), "the whole image": np.ones((64, 64))}


@jax.jit
def denoise_seeing(view, x_t, at):
    """E[x0 | the pixels of x_t that each pixel may see]: view [64, 64] is 1 where the row's pixel sees the column's."""
    squares = (x_t[:, :, None] - at.alpha * train.T) ** 2  # [B, 64, N]
    seen = jnp.einsum("jk,bkn->bjn", view, squares)
    weights = jax.nn.softmax(-0.5 * seen / ((at.alpha * WIDTH) ** 2 + at.sigma**2), axis=-1)
    centre = jnp.einsum("bjn,nj->bj", weights, train)
    gain = at.alpha * WIDTH**2 / ((at.alpha * WIDTH) ** 2 + at.sigma**2)
    return centre + gain * (x_t - at.alpha * centre)


clean = heldout[:48]
noise = np.random.default_rng(3).standard_normal(clean.shape)
grid = np.array([0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0])
errors = {name: [] for name in VIEWS}
for t in grid:
    at = level(linear, jnp.asarray(t))
    x_t = process.corrupt(at, clean, noise)
    for name, view in VIEWS.items():
        errors[name].append(float(jnp.mean((denoise_seeing(view, x_t, at) - clean) ** 2)))

at = level(linear, jnp.asarray(0.2))
x_t = process.corrupt(at, clean, noise)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), width_ratios=[1.1, 1])
rows_shown = [clean[:8], x_t[:8], *(denoise_seeing(view, x_t, at)[:8] for view in VIEWS.values())]
show(left, np.concatenate(rows_shown), 8, "Rows: clean, noisy (t = 0.2), predicted from\n" + ", ".join(VIEWS))
for name, values in errors.items():
    right.semilogy(grid, values, "o-", label=f"from {name}")
right.axhline(np.mean((clean - mean) ** 2), color="gray", linestyle=":", label="mean digit (no input)")
right.set(xlabel="t", ylabel="mean squared error", title="Prediction of the clean pixel, held-out digits")
right.legend(fontsize="small")
for t in (0.1, 0.2, 0.4):
    alone, around, whole = (values[list(grid).index(t)] for values in errors.values())
    print(f"t = {t}: MSE {alone:.4f} from its own value, {around:.4f} from 3 x 3, {whole:.4f} from the whole image")

# %% [markdown]
# With little noise a pixel's own value is nearly sufficient; with much noise all three return the mean digit. In
# between is what a network can learn: the neighbours reduce the error, and from about $t = 0.15$ on the whole digit
# reduces it further. At low noise 3 x 3 pixels are better than the whole image: 1,500 examples cover small patches
# well, and whole images poorly. A convolutional network uses both.
#
# ### The reverse process
#
# With the exact denoiser of the 1,500 digits in place of the network, `loop.sample` is the exact reverse process.


# %%
def exact(points, width=0.0):
    """The exact `predict(x_t, level) -> Prediction` for x0 ~ 1/N sum_i N(points[i], width² I)."""

    def predict(x_t, at):
        alpha, sigma = expand(at.alpha, x_t), expand(at.sigma, x_t)
        centre = jnp.exp(log_weights(x_t, at, points, width)) @ points
        x0 = centre + alpha * width**2 / ((alpha * width) ** 2 + sigma**2) * (x_t - alpha * centre)
        return Prediction(x0, (x_t - alpha * x0) / sigma, None)

    return predict


counts = [1, 4, 16, 64, 1000]
keys_x, keys = jax.random.split(jax.random.key(4), (2, 18))
start = process.prior(linear, keys_x, (64,))
kernel = reverse.fixed_small(process)
figure, axes = plt.subplots(len(counts), 1, figsize=(8, 3.6))
for axis, count in zip(axes, counts, strict=True):
    steps = loop.coefficients(process, linear, grids.uniform(count, T))
    x = np.asarray(loop.sample(ancestral().step, exact(train), kernel, steps, start, keys)[0])
    away = np.sqrt(np.min(np.mean((x[:, None] - train) ** 2, -1), 1)).mean()
    show(axis, x, 18, f"{count} step{'s' * (count > 1)}: RMS distance to the nearest training digit {away:.3f}")

# %% [markdown]
# One step gives the mean digit, a few steps averages of digits, many steps digits: the same Gaussian kernel, used at
# steps short enough for it. The samples are *training* digits, to three decimals. This is the exact optimum of the
# training objective on a finite set; a network generates new digits because it is not that optimum.

# %% [markdown]
# ## 4. The posterior given x0
#
# The components of the mixture follow from Bayes' rule with known $x_0$: $q(x_s \mid x_t, x_0) \propto q(x_t \mid
# x_s)\, q(x_s \mid x_0)$, a product of two Gaussians in $x_s$. With $\alpha_{ts} = \alpha_t/\alpha_s$ and
# $\sigma_{ts}^2 = \sigma_t^2 - \alpha_{ts}^2\sigma_s^2$ (for one step of the chain, $\sqrt{1-\beta}$ and $\beta$),
#
# $$q(x_s \mid x_t, x_0) = \mathcal N\Big(\underbrace{\tfrac{\alpha_s\sigma_{ts}^2}{\sigma_t^2}}_{c_0} x_0 +
# \underbrace{\tfrac{\alpha_{ts}\sigma_s^2}{\sigma_t^2}}_{c_1} x_t,\ \
# \tilde\beta = \tfrac{\sigma_{ts}^2\sigma_s^2}{\sigma_t^2}\Big),$$
#
# Ho et al. 2020, eq. 6 and 7. The sampling loop computes $c_0$, $c_1$ and $\tilde\beta$ for a grid of times in float64,
# and `process.posterior` applies them. We compare with the product on a grid.

# %%
row = step(0.4, 0.3)
pixel, noisy = 0.8, -0.5
x_s = np.linspace(-6, 6, 4001)
prior = np.exp(-0.5 * (x_s - row.to.alpha * pixel) ** 2 / row.to.sigma**2)
likelihood = np.exp(-0.5 * (noisy - row.at.alpha / row.to.alpha * x_s) ** 2 / np.exp(row.log_var_large))
product = prior * likelihood
product /= product.sum() * (x_s[1] - x_s[0])
posterior_mean, log_var = process.posterior(row, jnp.array([[pixel]]), jnp.array([[noisy]]))
formula = np.exp(-0.5 * (x_s - posterior_mean[0, 0]) ** 2 / np.exp(log_var)) / np.sqrt(2 * np.pi * np.exp(log_var))
np.testing.assert_allclose(product, formula, atol=1e-10)
print(f"largest difference between the product and process.posterior: {np.abs(product - formula).max():.0e}")

rows = loop.coefficients(process, linear, grids.uniform(T, T))
figure, axes = plt.subplots(1, 3, figsize=(12, 3))
axes[0].plot(x_s, prior / prior.max(), label=r"$q(x_s|x_0)$")
axes[0].plot(x_s, likelihood / likelihood.max(), label=r"$q(x_t|x_s)$")
axes[0].plot(x_s, product / product.max(), "k", label=r"product, $q(x_s|x_t,x_0)$")
axes[0].set(xlabel="$x_s$", xlim=(-3, 3), ylim=(0, 1.6), title="One pixel, t = 0.4 to s = 0.3\n(maximum scaled to 1)")
axes[1].semilogy(rows.at.t, rows.x0_scale, label="$c_0$, of $x_0$")
axes[1].semilogy(rows.at.t[:-1], rows.x_t_scale[:-1], label="$c_1$, of $x_t$")
axes[1].set(xlabel="t", title="Coefficients of the posterior mean,\nsteps of 1/1000")
axes[2].loglog(rows.at.t, np.exp(rows.log_var_large), label=r"$\beta$")
axes[2].loglog(rows.at.t[:-1], np.exp(rows.log_var_small[:-1]), "--", label=r"$\tilde\beta$")
axes[2].set(xlabel="t", title="Variance of the forward step\nand of the posterior")
for axis in axes:
    axis.legend(fontsize="small", loc="upper left" if axis is not axes[1] else "best")

# %% [markdown]
# The posterior mean has a small share $c_0$ of the image and keeps the rest of $x_t$. The two variances are those that
# Ho et al. use for the reverse kernel: $\tilde\beta$ is exact if the data are a single point, $\beta$ if they are
# $\mathcal N(0, I)$. They differ only near $t = 0$, where the likelihood is most sensitive.

# %% [markdown]
# ## 5. The objective is a sum of KL terms between Gaussians
#
# The model is a chain of Gaussian kernels $p(x_s \mid x_t)$ from $p(x_1) = \mathcal N(0, I)$. Its bound on the negative
# log-likelihood has one term per step (Ho et al. 2020, eq. 5):
#
# $$-\log p(x_0) \le \underbrace{\mathrm{KL}\big(q(x_1 | x_0)\,\|\,p(x_1)\big)}_{L_T} + \sum_{s > 0}
# \underbrace{\mathbb E\,\mathrm{KL}\big(q(x_s | x_t, x_0)\,\|\,p(x_s | x_t)\big)}_{L_{t}}
# \underbrace{-\,\mathbb E \log p(x_0 | x_{1/T})}_{L_0}.$$
#
# Both arguments of each KL are Gaussian, so only the mean over $x_0$ and noise is estimated. The code follows the
# equation:


# %%
def bound(predict, kernel, rows, x0, draw):
    """(L_T [B], L_t for each step but the last [N-1, B], L_0 [B]) in nats; draw(i) is the noise [B, D] of step i."""
    first, last = (jax.tree.map(lambda field, i=i: field[i], rows) for i in (0, -1))
    prior = process.kl((first.at.alpha * x0, 2 * first.at.log_sigma), (jnp.zeros(()), jnp.zeros(())))

    def term(i, row):
        x_t = process.corrupt(row.at, x0, draw(i))
        return process.kl(process.posterior(row, x0, x_t), kernel(row, predict(x_t, row.at), x_t))

    numbered = (jnp.arange(len(rows.at.t) - 1), jax.tree.map(lambda field: jnp.asarray(field[:-1]), rows))
    terms = jax.lax.map(lambda pair: term(*pair), numbered)
    x_t = process.corrupt(last.at, x0, draw(len(rows.at.t) - 1))
    mean, log_var = kernel(last, predict(x_t, last.at), x_t)
    decoder = 0.5 * jnp.sum((x0 - mean) ** 2 * jnp.exp(-log_var) + log_var + jnp.log(2 * jnp.pi), 1)
    return prior, terms, decoder


# %% [markdown]
# **First check: $x_0 \sim \mathcal N(0, 1)$.** The optimal prediction of the noise is $\hat\epsilon = \sigma_t x_t$,
# and with variance $\beta$ every kernel is the exact reversal. The bound must *equal* the entropy, $\tfrac12 \log 2\pi
# e = 1.4189385332$ nats, for any schedule that destroys the signal. Each term is quadratic in $(x_0, \epsilon)$, so the
# four sign points $(\pm1, \pm1)$ give its mean exactly, without samples.

# %%
signs = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
large = reverse.fixed_large(process, noiseless="forward")


def standard_normal(x_t, at):
    """The exact prediction for N(0, I) data: E[x0 | x_t] = alpha x_t, E[noise | x_t] = sigma x_t."""
    return Prediction(at.alpha * x_t, at.sigma * x_t, None)


prior, terms, decoder = bound(standard_normal, large, rows, signs[:, :1], lambda i: signs[:, 1:])
parts = np.array([prior.mean(), terms.mean(1).sum(), decoder.mean()])
print(f"L_T {parts[0]:.5e} + sum of L_t {parts[1]:.8f} + L_0 {parts[2]:.8f} = {parts.sum():.10f} nats")
np.testing.assert_allclose(parts, [2.01796e-05, 4.60515001, -3.18623165], rtol=1e-5)
np.testing.assert_allclose(parts.sum(), 0.5 * np.log(2 * np.pi * np.e), atol=1e-10)

# %% [markdown]
# **Second check: a Gaussian fitted to the digits.** The denoiser is linear, $\mathbb E[x_0|x_t] = m + \alpha C(\alpha^2
# C + \sigma^2 I)^{-1}(x_t - \alpha m)$. Independently, in NumPy, from the table of betas: along an eigenvector of $C$
# with eigenvalue $\lambda$ the posterior variance is $V_k = \lambda\sigma_k^2/(\bar\alpha_k\lambda+\sigma_k^2)$, and
# the term is
#
# $$L_k = \tfrac12\sum_\lambda\Big[\log\frac{\beta_k}{\tilde\beta_k}
# + \frac{\tilde\beta_k + c_0^2 V_k}{\beta_k} - 1\Big].$$

# %%
eigenvalues, axes64 = np.linalg.eigh(covariance)


def fitted_gaussian(x_t, at):
    """The exact prediction for N(mean, covariance) data."""
    gain = at.alpha * eigenvalues / (at.alpha**2 * eigenvalues + at.sigma**2)
    x0 = mean + ((x_t - at.alpha * mean) @ axes64 * gain) @ axes64.T
    return Prediction(x0, (x_t - at.alpha * x0) / at.sigma, None)


x0 = mean + (signs[:, :1] * np.sqrt(eigenvalues)) @ axes64.T  # sign points along every eigenvector at once
noise = (signs[:, 1:] * np.ones(64)) @ axes64.T
prior, terms, decoder = bound(fitted_gaussian, large, rows, x0, lambda i: noise)

betas = np.linspace(1e-4, 0.02, T)
bar = np.cumprod(1 - betas)
before = np.append(1.0, bar[:-1])
tilde = betas * (1 - before) / (1 - bar)
c0 = np.sqrt(before) * betas / (1 - bar)
left_over = eigenvalues * (1 - bar)[:, None] / (bar[:, None] * eigenvalues + (1 - bar)[:, None])  # V [T, 64]
wrong = (c0**2 / betas)[:, None] * left_over
by_hand = 0.5 * np.sum(np.log(betas / np.maximum(tilde, 1e-300))[:, None] + (tilde / betas)[:, None] + wrong - 1, 1)
by_hand[0] = 0.5 * np.sum(np.log(2 * np.pi * betas[0]) + wrong[0])
power = np.sum(eigenvalues) + np.sum(mean**2)
prior_by_hand = 0.5 * (bar[-1] * power - 64 * (bar[-1] + np.log1p(-bar[-1])))

np.testing.assert_allclose(terms.mean(1)[::-1], by_hand[1:], rtol=1e-7)
np.testing.assert_allclose([prior.mean(), decoder.mean()], [prior_by_hand, by_hand[0]], rtol=1e-9)
total = float(prior.mean() + terms.mean(1).sum() + decoder.mean()) / 64
entropy = 0.5 * np.mean(np.log(2 * np.pi * np.e * eigenvalues))
print(f"process.kl, summed: {total:.8f} nats per pixel; in NumPy: {(prior_by_hand + by_hand.sum()) / 64:.8f}")
print(f"entropy of the Gaussian: {entropy:.8f}; the bound is {total - entropy:.4f} above it")

small_terms = bound(fitted_gaussian, reverse.fixed_small(process), rows, x0, lambda i: noise)[1]
figure, axis = plt.subplots(figsize=(7, 3))
axis.loglog(rows.at.t[:-1], terms.mean(1), label=r"process.kl, variance $\beta$")
some = np.unique(np.geomspace(2, T, 25).astype(int))
axis.loglog(some / T, by_hand[some - 1], "k.", label=r"NumPy, variance $\beta$")
axis.loglog(rows.at.t[:-1], small_terms.mean(1), "--", label=r"process.kl, variance $\tilde\beta$")
axis.set(xlabel="t", ylabel="$L_t$, nats per image", title="KL of each step, Gaussian fitted to digits, T = 1000")
axis.legend(fontsize="small")
print(f"share of the sum of L_t in the first 100 of 1,000 steps: {by_hand[1:100].sum() / by_hand[1:].sum():.0%}")

# %% [markdown]
# The two agree to the last printed digit. The bound is above the entropy because this Gaussian is not $\mathcal N(0,
# I)$: the fixed variance is not the exact one, and $T$ is finite. Most of the sum comes from the steps near $t = 0$, at
# noise that is invisible; this is why the best likelihood and the best samples need different weights.

# %% [markdown]
# ## 6. The effect of predicting the noise
#
# Given $x_t$, the image, the noise and the posterior mean determine each other: a network may output any combination
# $a\,x_0 + b\,\epsilon$, which together with $x_t = \alpha x_0 + \sigma\epsilon$ is a system of two equations. The
# choice changes the effect of an *error* of the network, and the weight of a squared error of its output over the
# levels. We add 1 to the output and compute the change of $x_0$.

# %%
chosen = {
    "the noise (eps)": targets.eps(),
    "the image (x0)": targets.x0(),
    "the posterior mean": targets.posterior_mean(T),
    "v": targets.v(),
}
at = level(linear, jnp.arange(2, T + 1) / T)
x_t = jnp.zeros((T - 1, 1))
amplified = {}
for name, target in chosen.items():
    coefficients = target(linear, at)
    right_x0, _ = targets.solve_x0_eps(coefficients, at, x_t, jnp.zeros_like(x_t))
    wrong_x0, _ = targets.solve_x0_eps(coefficients, at, x_t, jnp.ones_like(x_t))
    amplified[name] = np.abs(wrong_x0 - right_x0)[:, 0]

figure, axes = plt.subplots(1, 2, figsize=(11, 3.4))
for name, error in amplified.items():
    axes[0].loglog(at.t, error, label=name)
    weight = losses.simple()(at, chosen[name](linear, at)) / error**2
    axes[1].loglog(at.t, weight, label=f"squared error of {name}")
c0 = rows.x0_scale[:-1]
axes[1].loglog(
    rows.at.t[:-1], c0**2 / np.exp(rows.log_var_large[:-1]), "k--", label=r"bound, variance $\beta$ (times 2)"
)
axes[0].set(xlabel="t", ylabel="error of $x_0$", title="Error of $x_0$ for a unit error of the output")
axes[1].set(xlabel="t", ylabel="weight", title="Weight on the squared error of $x_0$")
axes[0].legend(fontsize="small")
axes[1].legend(fontsize="x-small")
for t in (0.01, 0.1, 0.5, 1.0):
    values = [f"{name} {error[round(t * T) - 2]:.3g}" for name, error in amplified.items()]
    print(f"t = {t}: error of x0 from " + ", ".join(values))

# %% [markdown]
# An error of the noise has little effect at low noise and grows without limit where there is no signal. An error of the
# image is the same at every level, also where $x_t$ itself shows the image better; $v$ has the smaller of the two at
# either end. An error of the posterior mean is amplified everywhere, by $1/c_0$: the mean is a multiple of $x_t$ plus
# $c_0$ times the image, so a network that predicts it has to be exact in that small part.
#
# As weights: the bound with variance $\beta$ has $c_0^2/2\beta$ on the error of $x_0$, which is eq. 12 of Ho et al. on
# the error of the noise. L_simple (eq. 14) drops that factor. We check eq. 12 and print the dropped factor.

# %%
row = jax.tree.map(lambda field: jnp.asarray(field[:-1]), rows)  # all steps but the last, as one batch
x0, noise, slip = train[:1], jnp.ones((1, 64)), 0.01
x_t = process.corrupt(row.at, jnp.tile(x0, (T - 1, 1)), jnp.tile(noise, (T - 1, 1)))
believed, _ = targets.solve_x0_eps(targets.eps()(linear, row.at), row.at, x_t, noise + slip)
p_mean, p_log_var = large(row, Prediction(believed, noise + slip, None), x_t)
q_mean, _ = process.posterior(row, x0, x_t)
kl = process.kl((q_mean, p_log_var), (p_mean, p_log_var)) / 64 / slip**2  # equal variances: the means alone

factor = (betas / (2 * (1 - betas) * (1 - bar)))[1:][
    ::-1
]  # eq. 12: beta² / (2 sigma² alpha (1 - alpha-bar)), sigma² = beta
np.testing.assert_allclose(kl, factor, rtol=1e-7)
for k in (2, 10, 100, 500, 1000):
    print(f"step {k:4d}: weight of the squared error of the noise: eq. 12 {factor[T - k]:.4f}, L_simple 1")

# %% [markdown]
# The factor falls by more than an order of magnitude in the first hundred steps. Without it training puts less weight
# on invisible noise and more on the levels that determine the digit: samples improve, and the bound gets worse. The
# package defines every weight relative to the error of the noise (`losses.WEIGHTS`), so weight and parameterisation are
# chosen independently.

# %% [markdown]
# ## 7. Diffusion as a hierarchical VAE
#
# With $x_{1/T}, \dots, x_1$ as latent variables, $q$ is the encoder, $p$ the decoder, and the bound of section 5 the
# ELBO. Each $L_t$ is the *rate* of a layer, the nats of its latent beyond those of the layers above, and $L_0$ is the
# reconstruction.
#
# | variational autoencoder | diffusion |
# |---|---|
# | one latent, small | $T$ latents, each the size of the image |
# | encoder learned | encoder fixed: add noise |
# | prior matched by a learned encoder | prior reached because the noise dominates |
# | decoder: one large step | decoder: $T$ small steps, one network for all |
# | all layers trained at once | each term needs $x_t$ only, so layers are sampled |
#
# How many layers are needed? We use the smoothed digits of section 3, whose $-\log p(x_0)$ is exact, the exact denoiser
# $\mathbb E[x_0|x_t]$, and the held-out digits, with one draw of noise per layer.


# %%
def layered(points, width, kernel, count, x0):
    """The rows and the terms of the bound on x0 of a chain of `count` layers with the exact denoiser."""
    rows = loop.coefficients(process, linear, grids.uniform(count, T))

    def draw(i):
        return jax.random.normal(jax.random.fold_in(jax.random.key(5), i), x0.shape)

    return rows, bound(exact(points, width), kernel, rows, x0, draw)


squares = np.sum((heldout[:, None] - train) ** 2, -1)
truth = -jax.nn.logsumexp(-0.5 * squares / WIDTH**2, axis=1) + np.log(len(train)) + 32 * np.log(2 * np.pi * WIDTH**2)

counts, bounds = [1, 4, 16, 64, 256], []
for count in counts:
    _, (prior, terms, decoder) = layered(train, WIDTH, large, count, heldout)
    gap = (prior + terms.sum(0) + decoder - truth) / 64
    bounds.append((float(jnp.mean(gap)), float(jnp.std(gap)) / np.sqrt(len(heldout))))
    rate, distortion = float(jnp.mean(prior + terms.sum(0))) / 64, float(jnp.mean(decoder)) / 64
    print(
        f"{count:4d} layers: rate {rate:6.3f} + reconstruction {distortion:6.3f} = {rate + distortion:.3f} "
        f"nats per pixel, above -log p by {bounds[-1][0]:.3f} ± {bounds[-1][1]:.3f}"
    )
print(f"exact -log p(x0): {float(truth.mean()) / 64:.3f} nats per pixel")

# Conversely: x0 is one of the training digits, so the rate is the number of bits that identify it.
rows, (prior, terms, _) = layered(train, 0.0, reverse.fixed_small(process), 500, train[:100])
spent = (float(prior.mean()) + np.cumsum(terms.mean(1))) / np.log(2)
grid = jnp.linspace(0.02, 1, 50)
known = jax.lax.map(bits_left, level(linear, grid))[:, 0]

figure, axes = plt.subplots(1, 3, figsize=(12, 3.2))
axes[0].errorbar(counts, *np.transpose(bounds), fmt="o-", capsize=3)
axes[0].axhline(0, color="k", linestyle="--", label="exact")
axes[0].set(
    xlabel="layers", xscale="log", ylabel="nats per pixel", title="Bound minus exact $-\\log p(x_0)$, held-out digits"
)
axes[0].legend()
axes[1].plot(rows.at.t[:-1], terms.mean(1) / np.log(2))
axes[1].set(xlabel="t of the layer", ylabel="bits", title="Rate of each of 500 layers, training digits")
axes[2].plot(rows.to.t[:-1], spent, label="rate of the layers down to t")
axes[2].plot(grid, known, "k--", label="information in $x_t$ (section 2)")
axes[2].set(xlabel="t", ylabel="bits", title="Cumulative rate")
axes[2].legend(fontsize="small")
print(f"bits to identify one of 1,500 digits: {np.log2(len(train)):.2f}; total rate of the 500 layers: {spent[-1]:.2f}")

# %% [markdown]
# One layer is a poor autoencoder: a single Gaussian has to turn noise into a digit. With more layers the same fixed
# encoder and the same form of decoder approach the exact likelihood, as derived in section 3: 256 layers are within
# about 0.02 nats per pixel. Right: read as a code, the layers down to $t$ have sent the information that $x_t$ has
# about the image, and little more; in total they use the bits that identify one digit among 1,500, plus the cost of a
# finite number of layers. Middle: the layers near $t = 1$ carry almost no information, and near $t = 0$ all of it has
# been sent.
#
# **What a network adds.** Everything here was exact for 1,500 points, and for new images it returns the old ones. A
# trained network replaces `exact(train)` by a function of bounded capacity; process, objective, kernels and loop are
# the same.
