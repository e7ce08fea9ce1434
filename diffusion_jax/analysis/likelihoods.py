"""How many bits a trained run needs for held-out data, in several ways, side by side: the ways of --likelihood.

    vlb     the variational bound, term by term (bound.py)
    multi   the bound from K whole paths, which is tighter the larger K
    ode     the likelihood of the probability-flow ODE, by the change of variables
    K       the bound of Sohl-Dickstein et al. 2015, in the units of that paper

All look at the same examples, so that their differences can be told better than each alone.
"""

import functools
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from diffusion_jax import devices, files
from diffusion_jax.analysis import bound
from diffusion_jax.data.scaling import to_model
from diffusion_jax.experiment import choices, objectives, paths, samplers, sources
from diffusion_jax.likelihood import nonequilibrium, ode_likelihood, path_bound
from diffusion_jax.likelihood import variational as variational
from diffusion_jax.likelihood.variational import standard_error, to_bits
from diffusion_jax.objective import bound as objective_bound
from diffusion_jax.objective.prediction import clip_x0
from diffusion_jax.process.base import Array, level
from diffusion_jax.runs import pictures, trained
from diffusion_jax.runs.trained import Run
from diffusion_jax.sampling import flow

log = logging.getLogger(__name__)


class Line(NamedTuple):
    """A line of the table."""

    name: str
    bits: np.ndarray
    """bits/dim of each example."""
    calls: float
    """Network calls for an example, on average."""


Found = tuple[dict[str, Any], list[Line]]
"""Figures by name, and lines of the table."""
Way = Callable[[Run], Callable[[], Found]]
"""`way(run)()`: the first call finds whatever is wrong, ValueError, and the second does the work."""


def vlb(run: Run) -> Callable[[], Found]:
    """`bound.report_bound`, one network call for each step of the chain."""
    needs_plain_range("vlb", run)
    objectives.decoder(run.config)
    paths.chain_rows(run.config, run.experiment.process, run.experiment.schedule, run.config.bound.num_steps)

    def found() -> Found:
        figures, nats = bound.report_bound(run)
        return figures, [Line("vlb", to_bits(nats, dims(run)), figures["bound_steps"])]

    return found


def multi(run: Run) -> Callable[[], Found]:
    """The bounds from the numbers of paths in config.bound.paths, by `likelihood.path_bound`."""
    config, experiment = run.config, run.experiment
    needs_gaussian("multi", run)
    numbers = tuple(config.bound.paths)
    if not numbers or min(numbers) < 1 or any(more % less for less, more in itertools.pairwise(numbers)):
        raise ValueError(f"bound.paths={numbers}: each must divide the next, as (1, 4, 16) do")
    rows = paths.chain_rows(config, experiment.process, experiment.schedule, config.bound.num_steps)(None)
    predict = clip_x0(experiment.predict) if samplers.clips(config, config.bound) else experiment.predict
    decode = objectives.decoder(config)
    weigh = path_bound.make_path_weights(
        predict, experiment.process, experiment.schedule, experiment.reverse, decode, lambda params: rows
    )

    def found() -> Found:
        nats = each_example(run, weigh, numbers[-1], "multi")
        figures: dict[str, Any] = path_bound.summarise(nats, numbers, dims(run))
        steps = len(rows.at.t)
        lines = [
            Line(f"multi_{k}", to_bits(path_bound.importance_bound(nats, k), dims(run)), k * steps) for k in numbers
        ]
        return {**figures, "multi_examples": len(nats), "multi_steps": steps}, lines

    return found


def ode(run: Run) -> Callable[[], Found]:
    """The likelihood by the ODE, as config.ode asks, with its parts, by `likelihood.ode_likelihood`.

    ode_bits_per_dim is the sum of ode_prior (-log p of x at t = 1), ode_volume (-log of what the flow stretches) and
    the terms of the dequantisation. Each of eval.passes draws its noise and probes anew. Raises FloatingPointError
    where the ODE is not solved to its tolerance in the allowed calls.
    """
    config, experiment = run.config, run.experiment
    options = config.ode
    needs_gaussian("ode", run)
    if config.prediction.target in objectives.OF_A_CHAIN:
        aim = config.prediction.target
        raise ValueError(f"--likelihood=ode looks between the levels, where prediction.target={aim!r} cannot")
    flow.check(options.rtol, options.atol, options.max_calls, "ode")
    choices.choose("ode.trace", options.trace, ode_likelihood.PROBES)
    law = choices.choose("ode.law", options.law, ode_likelihood.TERMINAL_LOG_DENSITIES)
    make = choices.choose("ode.dequantisation", options.dequantisation, ode_likelihood.DEQUANTISATIONS)
    decode = objectives.decoder(config) if options.dequantisation == "process" else None
    dequantise = make(config.data.levels, decode)
    min_t = paths.lowest_time(config, experiment.schedule, options.min_t)
    density = ode_likelihood.make_density(
        experiment.predict, experiment.schedule, min_t, options.rtol, options.atol, options.max_calls, options.trace,
        options.probes, law,
    )  # fmt: skip

    def parts(params: Any, keys: Array, x0: Array, label: Array) -> dict[str, Array]:
        key_noise, key_probes = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        at = level(experiment.schedule(params), jnp.full((), min_t, x0.dtype))
        x, terms = dequantise(at, key_noise, x0)
        found = density(params, key_probes, x, label)
        return terms | {
            "prior": -found.terminal,
            "volume": -found.volume.mean(1),
            "probe_var": found.volume.var(1, ddof=1) if found.volume.shape[1] > 1 else jnp.full(len(x0), jnp.nan),
            "calls": found.calls,
            "ok": found.ok,
        }

    return functools.partial(_ode_figures, run, parts, min_t)


def _ode_figures(run: Run, parts: Callable[..., Any], min_t: float) -> Found:
    config, options = run.config, run.config.ode
    found = each_example(run, parts, config.eval.passes, "ode")
    calls, ok, probe_var = found.pop("calls"), found.pop("ok"), found.pop("probe_var")
    if not ok.all():
        raise FloatingPointError(
            f"--likelihood=ode: {(~ok).sum()} of {ok.size} examples cannot be solved to rtol={options.rtol:g}, "
            f"atol={options.atol:g} in {options.max_calls} network calls; raise ode.max_calls, or ode.rtol and ode.atol"
        )
    bits = {name: to_bits(np.asarray(nats, np.float64), dims(run)).mean(1) for name, nats in found.items()}
    whole = np.sum(list(bits.values()), axis=0)
    figures: dict[str, Any] = {
        "ode_bits_per_dim": float(whole.mean()),
        "ode_bits_per_dim_stderr": float(standard_error(whole)),
        **{f"ode_{name}_bits_per_dim": float(part.mean()) for name, part in bits.items()},
    }
    if options.trace != "exact" and options.probes > 1:  # the share of the error that more probes would take away
        of_mean = np.sqrt(probe_var.mean() / options.probes / probe_var.size)
        figures["ode_probes_bits_per_dim_stderr"] = float(to_bits(of_mean, dims(run)))
    figures |= {"ode_calls": float(calls.mean()), "ode_most_calls": int(calls.max()), "ode_examples": len(whole)}
    figures |= {"ode_min_t": min_t, "ode_trace": options.trace, "ode_dequantisation": options.dequantisation}
    return figures, [Line("ode", whole, float(calls.sum(1).mean()))]


def bound_K(run: Run) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The bound K of Sohl-Dickstein et al. 2015 on held-out data: figures, and curves of `likelihood.nonequilibrium`.

    All steps of the chain, for every example. Where the entropies of the data are known they stand beside it.
    """
    config, experiment = run.config, run.experiment
    process, path = experiment.process, experiment.schedule(None)
    rows = paths.K_rows(config, process, experiment.schedule)(None)
    into = sources.into_range(config)
    term = objective_bound.K_term(process, experiment.reverse)
    terms = variational.make_terms(experiment.predict, process, experiment.schedule, term, rows)
    ends = nonequilibrium.make_boundary_terms(process, path, rows)

    def on_data(params: Any, key: Array, batch: dict[str, Array]) -> tuple[Array, nonequilibrium.BoundaryTerms, Array]:
        x0 = into(batch["x0"], jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, batch["index"]))
        moment = (
            jnp.square(x0).reshape(len(x0), -1).mean(1) if is_gaussian else (1 + x0).reshape(len(x0), -1).mean(1) / 2
        )
        return terms(params, key, batch | {"x0": x0}).steps, ends(x0), moment

    is_gaussian = config.process.name == "gaussian"
    heldout = bound.heldout_examples(config)
    kl, at_ends, moments = bound.of_every_example(run, on_data, heldout, config.sampler.tile)
    shape = tuple(config.data.shape)
    figures = nonequilibrium.summarise(kl, at_ends, shape)
    nats = -figures["K_bits"] * np.log(2) * nonequilibrium.paper_unit(shape)[1]
    levels = config.data.levels if is_gaussian else 0
    figures["K_bits_per_dim"] = nonequilibrium.nats_to_bits_per_dim(nats, dims(run), levels, config.data.std)
    moment, wanted = float(moments.mean()), 1.0 if is_gaussian else config.process.binomial.rate
    figures["K_data_moment"] = moment
    if abs(moment - wanted) > 0.02 * wanted + 4 * float(np.nan_to_num(standard_error(moments))):
        what = "second moment of the data" if is_gaussian else "rate of the bits"
        figures["K_note"] = (
            f"K bounds the likelihood of x0 only where the {what} is {wanted:g}; here it is {moment:.3f}"
        )
    figures |= sources.known_entropies(config, path)
    if "negative_entropy_x0_bits" in figures:
        figures["K_gap_bits"] = figures["negative_entropy_x0_bits"] - figures["K_bits"]
    return figures, nonequilibrium.curves(kl, at_ends, np.asarray(rows.at.t), shape)


def nonequilibrium_bound(run: Run) -> Callable[[], Found]:
    """`bound_K`, in units of its own and so without a line, with the curves in K.npz and K.png beside the results."""
    steps = run.config.process.num_steps
    if steps < 2:
        raise ValueError(f"--likelihood=K has T - 1 terms: process.num_steps={steps} is too few")

    def found() -> Found:
        figures, curves = bound_K(run)
        directory = trained.evaluation_directory(run)
        files.save_npz(directory / "K.npz", curves)
        title = f"{epath.Path(run.workdir).name}: K = {figures['K_bits']:.3f} {figures['K_unit']}"
        pictures.entropy_bounds(directory / "K.png", curves, title, figures["K_unit"])
        log.info("the terms of K: %s", directory)
        return figures, []

    return found


WAYS: dict[str, Way] = {"vlb": vlb, "multi": multi, "ode": ode, "K": nonequilibrium_bound}
"""The values of --likelihood, which may name several, separated by commas."""


def parse_names(names: str) -> list[str]:
    """The ways in "vlb,multi,ode", each once. Raises ValueError for one that is not known."""
    found = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    for name in found:
        choices.choose("--likelihood", name, WAYS)
    return found


def prepare_likelihoods(run: Run, names: Sequence[str]) -> Callable[[], tuple[dict[str, Any], str]]:
    """What finds the figures of these ways, and a table with the differences from the first, example by example.

    Raises ValueError, before any work, where a way does not suit the run.
    """
    ways = [WAYS[name](run) for name in names]

    def found() -> tuple[dict[str, Any], str]:
        figures: dict[str, Any] = {}
        lines: list[Line] = []
        for way in ways:
            more_figures, more_lines = way()
            figures |= more_figures
            lines += more_lines
        for line in lines[1:]:
            difference = line.bits - lines[0].bits
            key = f"{line.name}_minus_{lines[0].name}_bits_per_dim"
            figures |= {key: float(difference.mean()), f"{key}_stderr": float(standard_error(difference))}
        return figures, table(lines)

    return found


def table(lines: Sequence[Line]) -> str:
    """The lines as a Markdown table, or nothing if there are none."""
    if not lines:
        return ""
    rows = [
        f"| likelihood | bits/dim | minus {lines[0].name} | examples | network calls each |",
        "|---|--:|--:|--:|--:|",
    ]
    for line in lines:
        difference = line.bits - lines[0].bits
        apart = f"{difference.mean():+.4f} ± {standard_error(difference):.4f}" if line is not lines[0] else ""
        figure = f"{line.bits.mean():.4f} ± {standard_error(line.bits):.4f}"
        rows.append(f"| {line.name} | {figure} | {apart} | {len(line.bits)} | {line.calls:,.0f} |")
    return "\n".join(rows)


def each_example(run: Run, function: Callable[..., Any], copies: int, name: str) -> Any:
    """`function(params, keys[B], x0[B,*D], label[B])` for held-out examples, `copies` times: a tree of [N, copies].

    A row's key follows from config.seed, the number of the example and that of the copy alone. Rows of all copies go
    together in calls of sampler.tile per device.
    """
    config = run.config
    heldout = bound.heldout_examples(config)
    x, label = heldout.read(np.arange(heldout.size))
    total, size = heldout.size * copies, config.sampler.tile * jax.device_count()

    def on_rows(params: Any, key: Array, rows: dict[str, Array]) -> Any:
        def key_of(example: Array, copy: Array) -> Array:
            return jax.random.fold_in(jax.random.fold_in(key, example), copy)

        keys = jax.vmap(key_of)(rows["example"], rows["copy"])
        return function(params, keys, to_model(rows["x0"], config.data.levels), rows["label"])

    def batches() -> Iterator[tuple[dict[str, np.ndarray]]]:
        for first in range(0, total, size):
            places = np.divmod(np.arange(first, min(first + size, total)), copies)
            example, copy = (part.astype(np.int32) for part in places)
            yield ({"x0": x[example], "label": np.asarray(label)[example], "example": example, "copy": copy},)

    tiled = devices.TiledMap(on_rows, config.sampler.tile, replicated=2, name=name)
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    parts = list(tiled.stream((run.params, key), batches(), total))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays).reshape(heldout.size, copies), *parts)


def dims(run: Run) -> int:
    """Dimensions of an example."""
    return math.prod(run.config.data.shape)


def needs_gaussian(name: str, run: Run) -> None:
    """Raise ValueError unless the process is Gaussian, and the data in [-1, 1] as they are."""
    process = run.config.process.name
    if process != "gaussian":
        raise ValueError(f"--likelihood={name} is that of a Gaussian process, but process.name={process!r}; use vlb")
    needs_plain_range(name, run)


def needs_plain_range(name: str, run: Run) -> None:
    """Raise ValueError unless the data are in [-1, 1] as they are."""
    data = run.config.data
    if data.dequantise or data.mean != 0 or data.std != 1:
        raise ValueError(f"--likelihood={name} is for data in [-1, 1], which data.mean, std or dequantise leave; use K")
