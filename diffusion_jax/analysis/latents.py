"""Data as the noise that a model makes them from, and back: by the probability-flow ODE, or by DDIM and its inversion.

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
from diffusion_jax.analysis import bound
from diffusion_jax.data.scaling import to_model
from diffusion_jax.experiment import choices, objectives, paths, samplers, sources
from diffusion_jax.process.base import Array, level
from diffusion_jax.runs import pictures
from diffusion_jax.runs.trained import Run
from diffusion_jax.sampling import ddim, flow, loop

Carried = tuple[Array, Array, Array]
"""(x[B,*D], calls int[B], ok bool[B])."""
WAYS = ("ode", "ddim")


def encode(run: Run, x: np.ndarray, label: np.ndarray, by: str = "ode") -> tuple[np.ndarray, float]:
    """x [N,*D], in the levels of the data, as x at t = 1: (float32 [N,*D], network calls for one on average).

    by: "ode", to the tolerances of config.ode; "ddim", in the steps of config.sampler, which is undone to first order
    only. Both start from alpha x0 at the lowest level with noise. label int [N] is what a conditional network is told.
    Raises ValueError for another `by` or a model that cannot, FloatingPointError where the ODE is not solved.
    """
    up, _ = _ways(run, by)
    return _carry(run, up, _in_range(run, x), label)


def decode(run: Run, latents: np.ndarray, label: np.ndarray, by: str = "ode") -> tuple[np.ndarray, float]:
    """Undo `encode`: x at t = 1 carried down to the level where encoding starts; in the range of the model, float32."""
    _, down = _ways(run, by)
    return _carry(run, down, latents, label)


def encode_heldout(run: Run, number: int, out: pathlib.Path, by: str = "ode") -> dict[str, Any]:
    """The first `number` held-out examples encoded and decoded again, in `out` (.npz), with a picture beside it.

    The file holds examples, labels, latents and decoded. rmse: of the decoded, in 255ths of the range of the model.
    """
    if number < 1:
        raise ValueError(f"--num_samples={number} must be at least 1")
    levels = run.config.data.levels
    heldout = bound.first_examples(sources.source(run.config, "heldout"), number)
    x, label = heldout.read(np.arange(heldout.size))
    found, calls = encode(run, x, label, by)
    back, calls_back = decode(run, found, label, by)
    decoded = np.asarray(sources.out_of_range(run.config)(back))
    files.save_npz(out, {"examples": x, "labels": label, "latents": found, "decoded": decoded})
    picture, shown = out.with_suffix(".png"), slice(0, 16)
    title = f"held-out examples, and what comes back from their noise by {by}"
    pictures.table(picture, np.stack([x[shown], decoded[shown]]), levels, ["examples", "decoded"], title)
    error = np.sqrt(np.mean((back - _in_range(run, x)) ** 2)) * 127.5 * run.config.data.std
    figures = {"rmse": float(error), "latents_std": float(found.std()), "network_calls": calls}
    paths = {"latents": str(out), "picture": str(picture)}
    return {**paths, "num_samples": len(x), "by": by, **figures, "network_calls_back": calls_back}


def _in_range(run: Run, x: np.ndarray) -> np.ndarray:
    """x [N,*D] of the data in the range of the model, with no noise of dequantisation."""
    data = run.config.data
    return np.asarray(to_model(x, data.levels, data.mean, data.std))


def _ways(run: Run, by: str) -> tuple[Callable[..., Carried], Callable[..., Carried]]:
    """`up(params, x0, label)` and `down(params, x_1, label)`."""
    config, experiment, options = run.config, run.experiment, run.config.ode
    choices.choose("--by", by, dict.fromkeys(WAYS))
    if config.process.name != "gaussian" or config.prediction.target in objectives.OF_A_CHAIN:
        raise ValueError(
            f"encoding needs the score of a Gaussian process at every level, which process.name={config.process.name!r}"
            f" with prediction.target={config.prediction.target!r} does not have"
        )
    flow.check(options.rtol, options.atol, options.max_calls, "ode")
    min_t = paths.lowest_time(config, experiment.schedule, options.min_t)
    rows: Any = None
    if by == "ddim":
        times = samplers.sampling_times(config, experiment.schedule)
        falling = paths.grid_rows(config, experiment.process, experiment.schedule, times, False)(run.params)
        rows = flow.upwards(falling)
        if not len(rows.to.t):
            raise ValueError(
                "encoding by ddim needs at least 2 steps, the last of which it leaves out; see sampler.num_steps"
            )
        min_t = float(rows.to.t[0])

    def carried(params: Any, x: Array, label: Array, upwards: bool) -> Carried:
        path = experiment.schedule(params)
        predict = functools.partial(experiment.predict, params, label=label, keys=None)
        ends = (min_t, 1.0) if upwards else (1.0, min_t)
        if by == "ode":
            return flow.carry(predict, path, x, *ends, options.rtol, options.atol, options.max_calls)
        step = flow.inversion if upwards else ddim.ddim().step
        ordered = rows if upwards else jax.tree.map(lambda field: field[::-1], rows)
        keys = jax.vmap(jax.random.key)(jnp.zeros(len(x), jnp.uint32))  # nothing is drawn
        x, _ = loop.sample(step, predict, None, ordered, x, keys)
        return x, jnp.full(len(x), len(rows.at.t)), jnp.ones(len(x), bool)

    def lowest_alpha(params: Any, x: Array) -> Array:
        return level(experiment.schedule(params), jnp.full((), min_t, x.dtype)).alpha

    def up(params: Any, x0: Array, label: Array) -> Carried:
        return carried(params, lowest_alpha(params, x0) * x0, label, True)

    def down(params: Any, x_1: Array, label: Array) -> Carried:
        x, calls, ok = carried(params, x_1, label, False)
        return x / lowest_alpha(params, x_1), calls, ok

    return up, down


def _carry(run: Run, way: Callable[..., Carried], x: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, float]:
    """`way` over any number of rows, in calls of sampler.tile per device."""
    tiled = devices.TiledMap(way, run.config.sampler.tile, name="examples")
    carried, calls, ok = tiled(run.params, np.asarray(x, np.float32), np.asarray(label, np.int32))
    if not ok.all():
        options = run.config.ode
        raise FloatingPointError(
            f"the ODE of {(~ok).sum()} of {len(x)} examples cannot be solved to rtol={options.rtol:g}, "
            f"atol={options.atol:g} in {options.max_calls} network calls; raise ode.max_calls, or ode.rtol and ode.atol"
        )
    return carried, float(calls.mean())
