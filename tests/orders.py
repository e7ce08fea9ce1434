"""Measured orders of convergence, on data whose score is known exactly: python tests/orders.py prints the table.

All grids are uniform in logsnr, from t = 1 to the smallest time of the schedule, without a last step to x0. Without
noise: where the probability-flow ODE takes given x on a 2-D mixture, against a solver that shares no code. With noise:
on Gaussian data every step is affine in x and noise, so mean and covariance are carried through the steps in closed
form, from the true marginal at t = 1, and compared with the true marginal at the end.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles

from diffusion_jax.objective import reverse
from diffusion_jax.process import schedules
from diffusion_jax.process.base import Level, in_float64, level, normal
from diffusion_jax.process.gaussian import GaussianProcess, step_coefficients
from diffusion_jax.sampling import grids, loop
from diffusion_jax.sampling.registry import SAMPLERS

PROCESS = GaussianProcess()
KERNEL = reverse.fixed_small(PROCESS)
SCHEDULES = {
    "VP": (schedules.vp(), 1e-3),
    "VE": (schedules.ve(), 0.0),
    "sub-VP": (schedules.subvp(), 1e-3),
    "EDM": (schedules.edm(), 0.0),
}
"""Name -> (schedule, its smallest time)."""
STEPS = (80, 160, 320, 640)
PART = STEPS[0]
"""Rows that one compiled program walks; longer grids are walked in parts."""


@functools.cache
def levels(name):
    """The levels [641] of the finest grid, of which every other one is the next coarser grid."""
    schedule, min_t = SCHEDULES[name]
    return in_float64(lambda t: level(schedule, t), grids.logsnr(schedule, STEPS[-1], min_t))


@functools.cache
def rows(name, steps, sampler="ddim", **options):
    """The rows [steps] of a method on a schedule."""
    every = STEPS[-1] // steps
    grid = jax.tree.map(lambda field: field[::every], levels(name))
    found = _step_row(
        *(jax.tree.map(lambda field, part=part: field[part], grid) for part in (slice(-1), slice(1, None)))
    )
    return SAMPLERS[sampler](**options).prepare(SCHEDULES[name][0], found)


_step_row = jax.jit(step_coefficients)


# Without noise.


@functools.cache
def walker(sampler, **options):
    """The method, and its compiled `walk(rows[PART], x, carry, keys) -> (x, carry)` with the exact denoiser."""
    method = SAMPLERS[sampler](**options)
    exact = oracles.exact(oracles.TWO_MODES)
    return method, jax.jit(lambda rows, x, carry, keys: loop.sample(method.step, exact, KERNEL, rows, x, keys, carry))


def walk(name, x, steps, sampler, **options):
    """x [B,D] at t = 1 of a schedule walked down to its smallest time."""
    method, walk = walker(sampler, **options)
    found, carry = rows(name, steps, *((sampler,) if sampler == "edm" else ())), method.init_carry(x)
    keys = jax.random.split(jax.random.key(0), len(x))
    for first in range(0, steps, PART):
        x, carry = walk(jax.tree.map(lambda field, a=first: field[a : a + PART], found), x, carry, keys)
    return np.asarray(x)


@functools.cache
def solution(name, number=16):
    """x at t = 1, and where the ODE takes it: dy = eps dS with y = x/alpha, S = sigma/alpha, by scipy in log S."""
    from scipy.integrate import solve_ivp

    schedule, _ = SCHEDULES[name]
    x = np.asarray(PROCESS.prior(schedule, jax.random.split(jax.random.key(1), number), (2,)), np.float64)
    ends = jax.tree.map(lambda field: field[[0, -1]], levels(name))
    found = solve_ivp(
        lambda log_s, y: np.asarray(_slope(log_s, y)),
        -ends.logsnr / 2,
        (x / ends.alpha[0]).ravel(),
        method="DOP853",
        rtol=1e-12,
        atol=1e-13,
    )
    return x, found.y[:, -1].reshape(x.shape) * ends.alpha[1]


@jax.jit
def _slope(log_s, y):
    x = y.reshape(-1, 2)
    at = Level(*(jnp.full(len(x), value) for value in (0.0, 0.0, log_s)))
    return jnp.exp(log_s) * oracles.exact(oracles.TWO_MODES)(x, at).eps.ravel()


def order(errors):
    """The slope of log error against log of the step, of errors at STEPS."""
    return -np.polyfit(np.log(STEPS), np.log(errors), 1)[0]


def without_noise(name, sampler, **options):
    """Errors at STEPS of a sampler on a schedule, root mean squares."""
    x, truth = solution(name)
    ends = [walk(name, jnp.asarray(x), steps, sampler, **options) for steps in STEPS]
    return [float(np.sqrt(np.mean((end - truth) ** 2))) for end in ends]


# With noise.


def affine(step, row, size, carry=None):
    """The maps z -> A z + b + c noise [N,…] that a step makes of z = x, or z = (x, last x0) with `carry(last x0)`.

    Found by trying: the step is asked for all rows at once, at z = 0 with two draws of noise, and at unit vectors.
    """
    count = len(row.at.t)
    keys = [jax.random.split(jax.random.key(i), count) for i in range(2)]

    def ask(z, keys):
        z = jnp.broadcast_to(z, (count, size))
        x, kept = step(z[:, :2], carry(z[:, 2:]) if carry else None, keys)
        return np.concatenate([x, kept.x0[0]], 1) if carry else np.asarray(x)

    at_zero, again = (ask(jnp.zeros(size), k) for k in keys)
    noise, other = (np.asarray(normal(k, (2,), at_zero.dtype)) for k in keys)
    c = (at_zero - again)[:, 0] / (noise - other)[:, 0]
    b = at_zero - c[:, None] * np.pad(noise, ((0, 0), (0, size - 2)))
    a = np.stack([ask(unit, keys[0]) - at_zero for unit in jnp.eye(size)], axis=2)
    return a, b, c


@functools.cache
def stepper(sampler, **options):
    """A compiled step of a method on Gaussian data: `step(row[N], x, carry, keys)`."""
    method, exact = SAMPLERS[sampler](**options), oracles.exact(oracles.GAUSSIAN)
    return method, jax.jit(lambda row, x, carry, keys: method.step(exact, KERNEL, row, x, carry, keys))


def with_noise(name, sampler, **options):
    """Errors at STEPS of mean and covariance at the end, the largest of all entries."""
    method, step = stepper(sampler, **options)
    remembers = method.init_carry(jnp.zeros((1, 2))) is not None
    size, errors = (4 if remembers else 2), []
    for steps in STEPS:
        row = rows(name, steps)
        last_h = jnp.asarray(np.append(1.0, row.h[:-1]))

        def carry(x0, known, count=steps, last_h=last_h):
            return method.init_carry(jnp.zeros((count, 2)))._replace(x0=(x0,), h=(last_h,), known=jnp.asarray(known))

        maps = affine(functools.partial(step, row), row, size, functools.partial(carry, known=1) if remembers else None)
        if remembers:
            begin = affine(functools.partial(step, row), row, size, functools.partial(carry, known=0))
            maps = [np.concatenate([first[:1], later[1:]]) for first, later in zip(begin, maps, strict=True)]
        first, last = (jax.tree.map(lambda field, i=i: field[i], side) for side, i in ((row.at, 0), (row.to, -1)))
        mean, covariance = np.zeros(size), np.zeros((size, size))
        mean[:2], covariance[:2, :2] = marginal(first)
        for a, b, c in zip(*maps, strict=True):
            mean, covariance = a @ mean + b, a @ covariance @ a.T
            covariance[:2, :2] += c**2 * np.eye(2)
        true_mean, true_covariance = marginal(last)
        errors.append(float(max(abs(mean[:2] - true_mean).max(), abs(covariance[:2, :2] - true_covariance).max())))
    return errors


def marginal(at):
    """Mean and covariance of x_t of the Gaussian data."""
    data = oracles.GAUSSIAN
    return at.alpha * data.mean, at.alpha**2 * data.covariance + at.sigma**2 * np.eye(2)


WITHOUT_NOISE = [
    ("ddim", {}),
    ("ode_euler", {}),
    ("ode_heun", {}),
    ("edm", {}),
    ("dpmpp_1s", {}),
    ("dpmpp_2m", {}),
    ("dpmpp_3m", {}),
    ("dpmpp_3m", {"second_difference": "half"}),
    ("unipc", {"order": 1}),
    ("unipc", {"order": 2}),
    ("unipc", {"order": 3}),
]
WITH_NOISE = [
    ("ancestral", {}),
    ("ddim", {"eta": 0.5}),
    ("ddim", {"eta": 1.0}),
    ("euler_maruyama", {}),
    ("reverse_diffusion", {}),
    ("dpmpp_2m_sde", {}),
]


def main():
    print("| sampler | " + " | ".join(SCHEDULES) + " |\n|---|" + "--:|" * len(SCHEDULES))
    for measure, cases in ((without_noise, WITHOUT_NOISE), (with_noise, WITH_NOISE)):
        for sampler, options in cases:
            said = "".join(f", {key} {value}" for key, value in options.items())
            errors = [measure(name, sampler, **options) for name in SCHEDULES]
            cells = [f"{order(e):.2f} ({e[0]:.1e} → {e[-1]:.1e})" for e in errors]
            print(f"| {sampler}{said} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    with jax.enable_x64(True):
        main()
