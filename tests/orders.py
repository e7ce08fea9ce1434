"""Measured orders of convergence, on data whose score is known exactly: python tests/orders.py prints the table.

Without noise: the end of the probability-flow ODE on a 2-D mixture from given x at t = 1 down to the smallest level,
against a solver that shares no code. With noise: mean and covariance carried through the steps on Gaussian data, where
every step is affine, against those of the process started with the same x at t = 1 and no step at all.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles

from diffusion_jax import build
from diffusion_jax.objective import reverse
from diffusion_jax.process import schedules
from diffusion_jax.process.base import Level, in_float64, level
from diffusion_jax.process.gaussian import gaussian
from diffusion_jax.sampling import grids, loop

PROCESS = gaussian()
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
def walker(name, **options):
    """The method, and its compiled `walk(rows[PART], x, memory, keys) -> (x, memory)` with the exact denoiser."""
    method = build.METHODS[name](**options)
    exact = oracles.exact(oracles.TWO_MODES)
    return method, jax.jit(lambda rows, x, memory, keys: loop.sample(method.step, exact, KERNEL, rows, x, keys, memory))


def rows(schedule, min_t, steps, method=None):
    return loop.rows(PROCESS, schedule, grids.logsnr(schedule, steps, min_t), method=method)


def walk(schedule, min_t, x, steps, name, **options):
    """x [B,D] at t = 1 walked down to min_t in `steps` steps, uniform in logsnr."""
    method, walk = walker(name, **options)
    found, memory = rows(schedule, min_t, steps, method), method.memory(x)
    keys = jax.random.split(jax.random.key(0), len(x))
    for first in range(0, steps, PART):
        x, memory = walk(jax.tree.map(lambda field, a=first: field[a : a + PART], found), x, memory, keys)
    return np.asarray(x)


@functools.cache
def start(name, number=16):
    """x at t = 1, and where the ODE takes it: dy = eps dS with y = x/alpha, S = sigma/alpha, by scipy in log S."""
    from scipy.integrate import solve_ivp

    schedule, min_t = SCHEDULES[name]
    x = np.asarray(PROCESS.prior(schedule, jax.random.split(jax.random.key(1), number), (2,)), np.float64)
    first, last = in_float64(lambda t: level(schedule, t), np.array([1.0, min_t])).log_alpha, None
    ends = in_float64(lambda t: level(schedule, t), np.array([1.0, min_t]))
    predict = jax.jit(oracles.exact(oracles.TWO_MODES))

    def slope(log_s, y):
        at = Level(*(jnp.full(number, value) for value in (0.0, 0.0, log_s)))
        return np.asarray(np.exp(log_s) * predict(jnp.asarray(y.reshape(x.shape)), at).eps).ravel()

    log_s = -ends.logsnr / 2
    found = solve_ivp(slope, log_s, (x / np.exp(ends.log_alpha[0])).ravel(), "DOP853", rtol=1e-12, atol=1e-13)
    return x, found.y[:, -1].reshape(x.shape) * np.exp(ends.log_alpha[1])


def order(steps, errors):
    """The slope of log error against log of the step."""
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


def deterministic(name, sampler, **options):
    """(order, errors at STEPS) of a sampler without noise on a schedule, root mean squares over the starts."""
    schedule, min_t = SCHEDULES[name]
    x, truth = start(name)
    errors = [
        np.sqrt(np.mean((walk(schedule, min_t, jnp.asarray(x), n, sampler, **options) - truth) ** 2)) for n in STEPS
    ]
    return order(STEPS, errors), errors


if __name__ == "__main__":
    import time
    with jax.enable_x64(True):
        for sampler, options in [("ddim",{}),("ode_euler",{}),("dpmpp_1s",{}),("ode_heun",{}),("edm",{}),("dpmpp_2m",{}),("dpmpp_3m",{}),("dpmpp_3m",{"second_difference":"half"}),("unipc",{"order":1}),("unipc",{"order":2}),("unipc",{"order":3})]:
            t0=time.time()
            out=[]
            for name in SCHEDULES:
                o,e=deterministic(name,sampler,**options)
                out.append(f"{o:.3f} ({e[0]:.1e} {e[-1]:.1e})")
            print(sampler,options,*out,f"{time.time()-t0:.1f}s",flush=True)
