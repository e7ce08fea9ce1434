"""Linear inverse problems y = A x0 + noise, solved by a trained run.

The results are draws of x0 given y, and their calibration.

operator = inverse_problems.make_operator("blur", (8, 8, 1), width=1.0)
arrays, figures = inverse_problems.solve(run, operator, "mmps", number=16, draws=19, noise=0.1)
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax import devices
from diffusion_jax.analysis import restoring, tables
from diffusion_jax.analysis.estimators import needs_denoiser
from diffusion_jax.experiment import choices, guidances, samplers, sources, wiring
from diffusion_jax.process.base import Array, normal
from diffusion_jax.runs import trained
from diffusion_jax.sampling import inverse
from diffusion_jax.sampling.inverse import Operator

TASKS = {"denoise": "identity", "inpaint": "mask", "colourise": "grey", "superres": "superres"}
"""Operator with the observation of each task of `restoring.TASKS`."""
RULE = "rule"
"""Method that multiplies the reverse kernel by r(x), see `sampling.posterior`; the rest are `inverse.METHODS`."""
LEVEL = 0.9
"""Probability of the intervals whose coverage is measured."""
COLUMNS = ("operator", "method", "sampler", "rmse", "rmse of the mean", "misfit", "coverage", "calls", "vjps")


def make_operator(
    name: str | Callable[[Array], Array] | Operator, shape: tuple[int, ...], seed: int = 0, **options: Any
) -> Operator:
    """Return an operator of examples [*D]: a name of `inverse.OPERATORS` with its options, "module:function", or A.

    A function is A itself, from one example to its observation. seed: of an operator that is drawn. Raises ValueError
    for unknown names and options.
    """
    if isinstance(name, str) and ":" not in name:
        made: Operator = choices.make("--operator", name, inverse.OPERATORS, options, shape=shape, seed=seed)
        return made
    if options:
        raise ValueError(
            f"operator: a function takes no options (got {', '.join(options)}). Build them into the function"
        )
    if isinstance(name, Operator):
        return name
    return Operator(choices.own("--operator", name) if isinstance(name, str) else name)


def default_noise(name: Any) -> float:
    """Return the standard deviation of the noise where none is given."""
    return 0.5 if name in ("denoise", "identity") else 0.0


def options_of(factory: Callable[..., Any] | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given options that a factory takes; {} for None."""
    parameters = inspect.signature(factory).parameters if factory else {}
    return {key: value for key, value in given.items() if key in parameters}


def make_method(name: str, **options: Any) -> inverse.Method | None:
    """Return the method of a name, None for `rule`. Raises ValueError for unknown names and options."""
    if name == RULE:
        return None
    if name not in inverse.METHODS:
        raise ValueError(f"--method={name!r}: unknown. Use {', '.join([RULE, *inverse.METHODS])}")
    made: inverse.Method = choices.make("--method", name, inverse.METHODS, options)
    return made


def solve(
    run: trained.Run,
    operator: Operator,
    method: str,
    number: int = 16,
    seed: int = 0,
    noise: float = 0.0,
    draws: int = 1,
    rule: str = "noise_aware",
    y: Any = None,
    **options: Any,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Observe held-out examples through an operator, and draw examples given the observations.

    Args:
        run: with its sampler and guidance; draw k of example i has the seed `seed + i draws + k`.
        number: of held-out examples, the first ones.
        operator: A, of examples in the range of the model.
        method: of `inverse.METHODS`, or `rule`, which needs an operator with a degradation and a sampler with a kernel.
        noise: standard deviation of the noise of y.
        draws: for each observation.
        rule: of `posterior.RULES`, for the method `rule`.
        y: observations [N,*M] in place of observations of held-out examples; there are then no errors and no coverage.
        options: of the method.

    Returns the arrays observed [N,*M] and, in the levels of the data, degraded (the least example with that
    observation, or an observation that is an image itself), restored [N,*D], the first draws, draws [N,K,*D] if there
    are several, original, labels; seeds; and the figures, with errors in 255ths of the range: `rmse` of a draw,
    `rmse_mean` of the mean of the draws, `rmse_degraded`; `misfit`, the root mean square of y - A x, in units of the
    noise where there is any; `coverage` of the intervals of 90 %; `network_calls` and `vjps`, backward passes,
    for each draw. Raises ValueError, before anything compiles, if the choices do not suit each other or the run.
    """
    needs_denoiser("restore", run)
    config, shape = run.config, tuple(run.config.data.shape)
    if not (noise >= 0 and math.isfinite(noise)):
        raise ValueError(f"--noise={noise}: the standard deviation of the noise must not be negative. Use 0.1, or 0")
    if draws < 1:
        raise ValueError(f"--draws={draws}: must be at least 1. Use 19 for a coverage")
    made = make_method(method, **options)
    if not run.experiment.process.gaussian:
        raise ValueError(f"process.name={config.process.name!r}: inverse problems need a gaussian process")
    observed = inverse.observed_shape(operator.apply, shape, "--operator")
    solver = make_solver(config, run.experiment, operator, made, noise, rule)

    if y is None:
        heldout = sources.heldout(config)
        if not 1 <= number <= heldout.size:
            raise ValueError(
                f"--num_examples={number}: must lie in 1 … {heldout.size}, the number of held-out examples"
            )
        stored, label = heldout.read(np.arange(number))
        x0 = np.asarray(sources.in_range(config, stored))
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2), i))(
            jnp.arange(number)
        )
        y = np.asarray(jax.vmap(operator.apply)(jnp.asarray(x0)) + noise * normal(keys, observed))
    else:
        y, x0, label = np.asarray(y, np.float32), None, None
        number = len(y) if y.ndim else 0
        if y.shape[1:] != observed or not number:
            needed = ",".join(["N", *map(str, observed)])
            raise ValueError(f"y: has shape {y.shape}. The operator needs [{needed}] with N >= 1 observations")
        if not np.isfinite(y).all():
            raise ValueError("y: has values that are not finite. Leave these observations out")
    seeds = trained.seeds_from(seed, number * draws, "num_examples")
    each: list[Any] = [seeds.astype(np.uint32), np.repeat(y, draws, axis=0)]
    if label is not None and guidances.uses_label(config):
        each.append(np.repeat(label, draws, axis=0))
    out = sources.make_from_model(config)
    x = devices.TiledMap(solver, config.sampler.tile, name="draws")(run.params, *each)
    drawn = out(x).reshape(number, draws, *shape)
    x = x.reshape(number, draws, *shape)

    degraded = y if y.shape[1:] == shape else np.asarray(inverse.pseudo_inverse(operator.apply, shape, jnp.asarray(y)))
    arrays = {"observed": y, "degraded": out(degraded), "restored": drawn[:, 0], "seeds": seeds}
    arrays |= {"draws": drawn} if draws > 1 else {}
    calls = wiring.count_calls(config, run.params, run.guide)
    figures = {
        "misfit": misfit(operator, x, y, noise),
        "network_calls": calls,
        "vjps": calls * (made.vjps if made else 0),
    }
    if x0 is not None:
        scale = 127.5 * config.data.std
        arrays |= {"original": out(x0), "labels": label}
        figures |= {
            "rmse": scale * _rms(x - x0[:, None]),
            "rmse_mean": scale * _rms(x.mean(1) - x0),
            "rmse_degraded": scale * _rms(degraded - x0),
        }
        figures |= {"coverage": coverage(drawn, out(x0))} if draws > 1 else {}
    return arrays, figures


def make_solver(
    config: Any,
    experiment: wiring.Experiment,
    operator: Operator,
    method: inverse.Method | None,
    noise: float,
    rule: str,
) -> Callable[..., Array]:
    """Return `solver(params, seeds uint32[B], y[B,*M], label=None) -> x0[B,*D]` of the sampler of a config.

    method: None for the rule of a name. Raises ValueError if the choices do not fit.
    """
    if method is None:
        degraded, scale = operator.degradation, operator.scale
        if degraded is None:
            raise ValueError(
                "--method=rule: needs one of the operators identity, mask, superres, grey. Use --method=mmps"
            )
        restorer = restoring.make_restorer(config, experiment, degraded, rule, scale * noise, 1, 10)
        places, size = np.flatnonzero(degraded.mask), degraded.mask.size

        def by_rule(params: Any, seeds: Array, y: Array, label: Array | None = None) -> Array:
            known = jnp.zeros((len(y), size), y.dtype).at[:, places].set(scale * y.reshape(len(y), -1))
            return restorer(params, seeds, known.reshape(len(y), *degraded.mask.shape), label)

        return by_rule

    def by_guidance(params: Any, seeds: Array, y: Array, label: Array | None = None) -> Array:
        guided = inverse.condition(experiment.guided, method, inverse.Observation(operator.apply, y, noise))
        sampler = dataclasses.replace(experiment.sampler, denoiser=samplers.clipped(config, guided))
        return sampler.sample(params, seeds, label)

    return by_guidance


def misfit(operator: Operator, x: np.ndarray, y: np.ndarray, noise: float) -> float:
    """Return the root mean square of y - A x, in units of the noise. Without noise, it is not divided."""
    found = np.asarray(jax.vmap(operator.apply)(jnp.asarray(x.reshape(-1, *x.shape[2:]))))
    return _rms(np.repeat(y, x.shape[1], axis=0) - found) / (noise or 1)


def coverage(draws: np.ndarray, truth: np.ndarray, level: float = LEVEL, seed: int = 0) -> float:
    """Return the share of elements inside of the central interval of their draws.

    truth: [N,*D]; draws: [N,K,*D]. The rank of an element among its draws, with ties broken by chance, is uniform if
    it is a draw like them. The share is then `level`, for any number of draws, and for grey levels as well.
    """
    count = draws.shape[1]
    below = (draws < truth[:, None]).sum(1)
    ties = (draws == truth[:, None]).sum(1)
    rank = (below + np.random.default_rng(seed).uniform(size=truth.shape) * (ties + 1)) / (count + 1)
    return float(np.mean(np.abs(2 * rank - 1) <= level))


def compare(
    run: trained.Run,
    operators: Mapping[str, Operator],
    methods: Sequence[str],
    options: Mapping[str, Any],
    **shared: Any,
) -> tuple[str, list[dict[str, Any]]]:
    """Solve the problem of each operator by each method.

    Returns the table, and its rows of figures. options: of the methods, each takes its own. shared: arguments of
    `solve`. The method `rule` draws by ancestral sampling where the sampler of the run has no kernel, and is left out
    for operators without a degradation. Raises ValueError, before anything is drawn, for what cannot be solved.
    """
    cells = []
    for name, operator in operators.items():
        inverse.observed_shape(operator.apply, tuple(run.config.data.shape), f"--operator={name}")
        for method in methods:
            made = make_method(method, **options_of(inverse.METHODS.get(method), options))
            if method == RULE and operator.degradation is None:
                continue
            chosen = with_kernel(run) if method == RULE else run
            noise, rule = shared.get("noise", 0.0), shared.get("rule", "noise_aware")
            make_solver(chosen.config, chosen.experiment, operator, made, noise, rule)
            cells.append((name, operator, method, chosen))
    if not cells:
        raise ValueError(f"--method={','.join(methods)}: needs one of the operators identity, mask, superres, grey")
    rows: list[dict[str, Any]] = []
    for name, operator, method, chosen in cells:
        _, figures = solve(chosen, operator, method, **shared, **options_of(inverse.METHODS.get(method), options))
        section = chosen.config.sampler
        rows.append({"operator": name, "method": method, "sampler": section.name, **figures})
    text = tables.markdown(
        COLUMNS,
        [
            [
                row["operator"],
                shared.get("rule", "noise_aware") if row["method"] == RULE else row["method"],
                row["sampler"],
                f"{row['rmse']:.1f}",
                f"{row['rmse_mean']:.1f}",
                f"{row['misfit']:.2f}",
                f"{row['coverage']:.1%}" if "coverage" in row else tables.MISSING,
                f"{row['network_calls']:,}",
                f"{row['vjps']:,}",
            ]
            for row in rows
        ],
        text=("method", "sampler"),
    )
    return text, rows


def with_kernel(run: trained.Run) -> trained.Run:
    """Return the run, with ancestral sampling where its sampler has more than the kernel."""
    if run.experiment.sampler.method.kernel_only:
        return run
    config = run.config.copy_and_resolve_references()
    config.sampler.name = "ancestral"
    return run._replace(config=config, experiment=wiring.build(config, run.params, guide=run.guide))


def _rms(x: np.ndarray) -> float:
    """Root mean square of an array."""
    return float(np.sqrt(np.square(np.asarray(x, np.float64)).mean()))
