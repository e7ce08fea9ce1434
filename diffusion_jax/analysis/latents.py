"""Encode data as noise and decode it, by the probability-flow ODE or by DDIM.

latents, calls = encode(run, x, label)
x, calls = decode(run, latents, label)
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax import devices, files
from diffusion_jax.analysis.heldout import first_examples
from diffusion_jax.experiment import choices, objectives, paths, samplers, sources
from diffusion_jax.process.base import Array, level
from diffusion_jax.runs import pictures, trained
from diffusion_jax.runs.trained import Run
from diffusion_jax.sampling import ddpm, flow, loop

PICTURED = 16
"""Examples in the picture."""
Carried = tuple[Array, Array, Array]
"""x [B,*D], network calls int [B], solved bool [B]."""
Carry = Callable[[Any, Array, Array], Carried]
"""`carry(params, x [B,*D], label int [B])`, a map between data and latents."""
METHODS = ("ode", "ddim")
"""The values of --by."""


def encode(run: Run, x: np.ndarray, label: np.ndarray, by: str = "ode") -> tuple[np.ndarray, float]:
    """Encode stored examples x [N,*D] as latents at t = 1.

    Returns the latents, float32 [N,*D], and the mean number of network calls. by: "ode", to the tolerances of
    config.ode; "ddim", in the steps of config.sampler, which decoding inverts to first order only. Both start from
    alpha x0 at the lowest level with noise. label: int [N], for a conditional network.
    Raises ValueError for an unknown `by` or a model without a score at every level, FloatingPointError if the ODE
    cannot be solved.
    """
    up, _ = _maps(run, by)
    return _carry(run, up, np.asarray(sources.in_range(run.config, x)), label)


def decode(run: Run, latents: np.ndarray, label: np.ndarray, by: str = "ode") -> tuple[np.ndarray, float]:
    """Invert `encode`. Returns examples [N,*D] in the range of the model, float32, and the mean number of calls."""
    _, down = _maps(run, by)
    return _carry(run, down, latents, label)


def encode_heldout(run: Run, number: int, out: pathlib.Path, by: str = "ode") -> dict[str, Any]:
    """Encode and decode the first `number` held-out examples; write them to `out`.

    A picture is written beside the .npz file. The file holds examples, labels, latents and decoded. The returned rmse
    is the error of the decoded examples, in 255ths of the range of the model.
    """
    if number < 1:
        raise ValueError(f"--num_examples={number}: must be at least 1")
    levels = run.config.data.levels
    heldout = first_examples(sources.heldout(run.config), number)
    x, label = heldout.read(np.arange(heldout.size))
    latents, calls = encode(run, x, label, by)
    back, calls_back = decode(run, latents, label, by)
    decoded = sources.make_from_model(run.config)(back)
    files.save_npz(out, {"examples": x, "labels": label, "latents": latents, "decoded": decoded})
    shown, title = slice(0, PICTURED), f"held-out examples, encoded and decoded by {by}"
    picture = pictures.table(out, np.stack([x[shown], decoded[shown]]), levels, ["examples", "decoded"], title)
    error = np.sqrt(np.mean((back - np.asarray(sources.in_range(run.config, x))) ** 2)) * 127.5 * run.config.data.std
    values = {"rmse": float(error), "latents_std": float(latents.std()), "network_calls": calls}
    written = {"latents": str(out), "picture": str(picture)}
    return {**written, "num_examples": len(x), "by": by, **values, "network_calls_back": calls_back}


def _maps(run: Run, by: str) -> tuple[Carry, Carry]:
    """Return the map from data to latents and its inverse."""
    config, experiment, options = run.config, run.experiment, run.config.ode
    choices.choose("--by", by, dict.fromkeys(METHODS))
    if not experiment.process.gaussian or objectives.target_facts(config).chain:
        raise ValueError(
            f"encode: needs the score of a Gaussian process at every level (got process.name={config.process.name!r}, "
            f"prediction.target={config.prediction.target!r})"
        )
    flow.check(options.rtol, options.atol, options.max_calls, "ode")
    min_t = paths.lowest_time(config, experiment.schedule, options.min_t)
    rows: Any = None
    if by == "ddim":
        times = samplers.sampling_times(config, experiment.schedule)
        falling = paths.grid_coefficients(config, experiment.process, experiment.schedule, times, False)(run.params)
        rows = flow.upwards(falling)
        if not len(rows.to.t):
            raise ValueError("--by=ddim: needs at least 2 steps, as the last one is left out. Raise sampler.num_steps")
        min_t = float(rows.to.t[0])

    def carry(params: Any, x: Array, label: Array, upwards: bool) -> Carried:
        schedule = experiment.schedule(params)
        predict = functools.partial(experiment.predict, params, label=label, keys=None)
        ends = (min_t, 1.0) if upwards else (1.0, min_t)
        if by == "ode":
            return flow.solve_flow(predict, schedule, x, *ends, options.rtol, options.atol, options.max_calls)
        step = flow.inversion if upwards else ddpm.ddim().step
        assert step is not None
        ordered = rows if upwards else jax.tree.map(lambda field: field[::-1], rows)
        keys = jax.vmap(jax.random.key)(jnp.zeros(len(x), jnp.uint32))  # the step is deterministic
        x, _ = loop.sample(step, predict, None, ordered, x, keys)
        return x, jnp.full(len(x), len(rows.at.t)), jnp.ones(len(x), bool)

    def lowest_alpha(params: Any, x: Array) -> Array:
        return level(experiment.schedule(params), jnp.full((), min_t, x.dtype)).alpha

    def up(params: Any, x0: Array, label: Array) -> Carried:
        return carry(params, lowest_alpha(params, x0) * x0, label, True)

    def down(params: Any, x_1: Array, label: Array) -> Carried:
        x, calls, solved = carry(params, x_1, label, False)
        return x / lowest_alpha(params, x_1), calls, solved

    return up, down


def _carry(run: Run, function: Carry, x: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, float]:
    """Map any number of examples; return them and the mean number of network calls."""
    tiled = devices.TiledMap(function, run.config.sampler.tile, name="examples")
    carried, calls, solved = tiled(run.params, np.asarray(x, np.float32), np.asarray(label, np.int32))
    if not solved.all():
        trained.check_weights(run)
        options = run.config.ode
        raise FloatingPointError(
            f"the ODE of {(~solved).sum()} of {len(x)} examples cannot be solved to rtol={options.rtol:g}, "
            f"atol={options.atol:g} in {options.max_calls} network calls. Raise ode.max_calls, or ode.rtol and ode.atol"
        )
    return carried, float(calls.mean())
