"""Samplers compared with public software to rounding: the same model, noise and levels in both programs, in float64.

    python -m venv .venv-peers && .venv-peers/bin/pip install -e . torch diffusers k-diffusion
    .venv-peers/bin/python launch/parity.py             # prints the table of docs/results/parity.md
    .venv-peers/bin/python launch/parity.py --only=ddim # the cases whose name contains "ddim"

Each case walks a sampler of this package and its counterpart over the same levels. The model is a fixed function of
(x, t), and the noise is this package's, handed to the other program. The figure is max|ours - theirs| / max|theirs| of
the end points. The code of the other programs runs with float32 replaced by float64; their algorithms are unchanged.
Cases of software that is not installed are listed as not run. Exit code 1: a difference above its limit.
"""

import argparse
import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import itertools
import pathlib
import re
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.objective import reverse
from diffusion_jax.objective.prediction import Denoiser, Prediction, clip_x0
from diffusion_jax.process import schedules
from diffusion_jax.process.base import Level, Schedule, expand, normal
from diffusion_jax.process.gaussian import GaussianProcess
from diffusion_jax.sampling import grids, loop
from diffusion_jax.sampling.registry import SAMPLERS

PROCESS = GaussianProcess()
T, BATCH, SHAPE = 1000, 4, (3, 8, 8)
KEYS = jax.random.split(jax.random.key(0), BATCH)
START = np.random.default_rng(1).standard_normal((BATCH, *SHAPE))
CHAINS: dict[str, tuple[Callable[..., Schedule], str]] = {
    "linear": (schedules.linear, "linear"),
    "scaled": (schedules.quad, "scaled_linear"),
    "cosine": (schedules.cosine, "squaredcos_cap_v2"),
    "sigmoid": (schedules.sigmoid, "sigmoid"),
}
"""Schedules of both programs; the betas of all but the cosine run from 1e-4 to 0.02."""
Walk = Callable[[Callable[..., Any], np.ndarray], np.ndarray]


def model(x: Any, t: Any, xp: Any) -> Any:
    """Return eps(x, t) of the model, t from 0 to 999, for NumPy's and PyTorch's functions alike."""
    return 0.7 * xp.sin(1.3 * x + 0.004 * t) + 0.4 * x * (t + 1) / T


def denoiser(x: Any, sigma: Any, xp: Any) -> Any:
    """Return x0(x, sigma) of the model for schedules with alpha = 1."""
    return xp.tanh(x / (1 + sigma) + 0.3 * sigma / (1 + sigma))


def ours(
    method: str,
    options: dict[str, Any],
    schedule: Schedule,
    times: np.ndarray,
    predict: Any,
    kernel: Any = None,
    start: Any = START,
) -> np.ndarray:
    """Walk a sampler of this package over `times` and to the predicted x0, if there is still noise at the last."""
    step = SAMPLERS[method](**options)
    rows = loop.coefficients(PROCESS, schedule, times, denoise=True, method=step)
    x = jnp.asarray(start)
    assert step.step is not None
    end, _ = loop.sample(step.step, predict, kernel, rows, x, KEYS, step.init_carry(x))
    return np.asarray(end)


def noises() -> Iterator[np.ndarray]:
    """Noise of step 0, 1, …, as `loop.sample` draws it."""
    draw = jax.jit(lambda i: normal(jax.vmap(jax.random.fold_in, (0, None))(KEYS, i), SHAPE, jnp.float64))
    return (np.asarray(draw(i)) for i in itertools.count())


class Double:
    """A module whose float32 is float64, and whose draws are the given noise."""

    def __init__(self, module: Any, draw: Callable[[], Any] | None = None) -> None:
        self.module, self.draw = module, draw

    def __getattr__(self, name: str) -> Any:
        if name == "randn_like" and self.draw:
            return lambda *_, **__: self.draw()
        return getattr(self.module, "float64" if name == "float32" else name)


# diffusers


Settings = dict[str, Any]
"""Keyword arguments of `diffusers_case` or `k_case`."""


def diffusers_case(
    name: str,
    method: str,
    scheduler: str,
    limit: float,
    chain: str = "linear",
    steps: int = T,
    options: dict[str, Any] | None = None,
    clip: bool = False,
    variance: str = "",
    target: str = "epsilon",
    theirs: dict[str, Any] | None = None,
    step_options: dict[str, Any] | None = None,
    keep_eps: bool = False,
) -> tuple[str, str, float, Callable[[], float]]:
    """Return (name, software, limit, run) of a comparison with a scheduler of diffusers, over its timesteps."""
    settings = options or {}, clip, variance, target, theirs or {}, step_options or {}, keep_eps
    return name, "diffusers", limit, lambda: _diffusers(method, scheduler, chain, steps, *settings)


def _diffusers(
    method: str, scheduler: str, chain: str, steps: int, options: dict[str, Any], clip: bool, variance: str,
    target: str, theirs: dict[str, Any], step_options: dict[str, Any], keep_eps: bool,
) -> float:  # fmt: skip
    import torch

    module = importlib.import_module("diffusers.schedulers.scheduling_" + FILES[scheduler])
    supply = noises()
    module.torch, module.np = Double(torch), Double(np)  # type: ignore[attr-defined]
    module.randn_tensor = lambda *_, **__: torch.tensor(next(supply))  # type: ignore[attr-defined]
    make, their_chain = CHAINS[chain]
    if scheduler in ("DDPM", "DDIM"):
        theirs = {"clip_sample": clip} | theirs
    if variance:
        theirs = {"variance_type": variance} | theirs
    betas = {"beta_schedule": their_chain, "beta_start": 1e-4, "beta_end": 0.02}
    peer = getattr(module, f"{scheduler}Scheduler")(prediction_type=target, **betas, **theirs)
    peer.set_timesteps(steps)
    scaled = scheduler in ("HeunDiscrete", "EulerDiscrete", "EulerAncestralDiscrete")  # x / alpha, of their own scale
    bar = peer.alphas_cumprod

    x = torch.from_numpy(START)
    if scaled:
        x = x / bar[int(peer.timesteps[0])].sqrt()
    for t in peer.timesteps:
        at = bar[int(t)]
        seen = x * at.sqrt() if scaled else x
        if scaled:
            peer.scale_model_input(x, t)  # finds the index of the step
        eps = model(seen, float(t), torch)
        x0 = (seen - (1 - at).sqrt() * eps) / at.sqrt()
        output = {"epsilon": eps, "sample": x0, "v_prediction": at.sqrt() * eps - (1 - at).sqrt() * x0}[target]
        if step_options.get("eta"):
            step_options = step_options | {"variance_noise": torch.tensor(next(supply))}
        x = peer.step(output, t, x, **step_options).prev_sample
    found = x.numpy()

    levels = list(dict.fromkeys(np.asarray(peer.timesteps, np.float64).tolist()))  # Heun's appear twice
    times = np.append((np.array(levels) + 1) / T, 0.0)

    def unclipped(params: Any, x: Any, at: Level, *_: Any, **__: Any) -> Prediction:
        eps = model(x, expand(at.t * T - 1, x), jnp)
        return Prediction((x - expand(at.sigma, x) * eps) / expand(at.alpha, x), eps, None)

    predict: Denoiser = unclipped
    if theirs.get("thresholding"):
        predict = clip_x0(unclipped, quantile=theirs["dynamic_thresholding_ratio"])
    elif clip:
        predict = clip_x0(unclipped, keep_eps=keep_eps)

    kernel = {"fixed_small": reverse.fixed_small, "fixed_large": reverse.fixed_large}.get(variance)
    return difference(
        ours(method, options, make(T), times, functools.partial(predict, None), kernel and kernel(PROCESS)), found
    )


FILES = {
    "DDPM": "ddpm", "DDIM": "ddim", "DPMSolverMultistep": "dpmsolver_multistep", "UniPCMultistep": "unipc_multistep",
    "HeunDiscrete": "heun_discrete", "EulerDiscrete": "euler_discrete",
    "EulerAncestralDiscrete": "euler_ancestral_discrete",
}  # fmt: skip


def multistep(order: int, **more: Any) -> dict[str, Any]:
    """Settings of a multistep solver of diffusers that ends at sigma = 0 without lowering its order first."""
    fixed = {"final_sigmas_type": "zero", "lower_order_final": False, "solver_order": order}
    return {**fixed, **more}


def diffusers_cases() -> list[Any]:
    """Return the comparisons with diffusers."""
    case, cases = diffusers_case, []
    for chain in CHAINS:
        for variance, clip in (("fixed_small", True), ("fixed_large", False)):
            name = f"ancestral, 1,000 steps, {chain}, {variance}{', clipped' if clip else ''}"
            cases.append(case(name, "ancestral", "DDPM", 1e-9, chain, variance=variance, clip=clip))
    small: Settings = {"variance": "fixed_small", "clip": True}
    for target in ("sample", "v_prediction"):
        cases.append(case(f"ancestral, 1,000 steps, {target}", "ancestral", "DDPM", 1e-9, target=target, **small))
    for spacing in ("leading", "linspace"):
        more = {"timestep_spacing": spacing}
        cases.append(case(f"ancestral, 50 {spacing}", "ancestral", "DDPM", 1e-10, steps=50, theirs=more, **small))
    for chain in ("linear", "scaled", "cosine"):
        cases.append(case(f"ddim, 50 leading, {chain}", "ddim", "DDIM", 1e-11, chain, 50))
    cases.append(case("ddim, 50 trailing", "ddim", "DDIM", 1e-11, steps=50, theirs={"timestep_spacing": "trailing"}))
    for eta in (0.5, 1.0):
        settings: Settings = {"options": {"eta": eta}, "step_options": {"eta": eta}}
        cases.append(case(f"ddim, 50 leading, eta {eta}", "ddim", "DDIM", 1e-11, steps=50, **settings))
    use = {"use_clipped_model_output": True}
    cases.append(case("ddim, 50 leading, clipped", "ddim", "DDIM", 1e-11, steps=50, clip=True, step_options=use))
    cases.append(case("ddim, 50 leading, keep_eps", "ddim", "DDIM", 1e-11, steps=50, clip=True, keep_eps=True))
    for target in ("sample", "v_prediction"):
        cases.append(case(f"ddim, 50 leading, {target}", "ddim", "DDIM", 1e-11, steps=50, target=target))
    dpm = "DPMSolverMultistep"
    for chain in ("linear", "scaled", "cosine"):
        cases.append(case(f"dpmpp_1s, 20 steps, {chain}", "dpmpp_1s", dpm, 1e-11, chain, 20, theirs=multistep(1)))
        cases.append(case(f"dpmpp_2m, 20 steps, {chain}", "dpmpp_2m", dpm, 1e-11, chain, 20, theirs=multistep(2)))
        heun: Settings = {"options": {"second_difference": "half"}, "theirs": multistep(3, solver_type="heun")}
        cases.append(case(f"dpmpp_3m half, 20 steps, {chain}", "dpmpp_3m", dpm, 1e-11, chain, 20, **heun))
    lower: Settings = {"timestep_spacing": "trailing", "lower_order_final": True}
    final: Settings = {"options": {"lower_order_final": True}, "theirs": multistep(2, **lower)}
    cases.append(case("dpmpp_2m, 10 trailing, lower_order_final", "dpmpp_2m", dpm, 1e-11, steps=10, **final))
    final = {"options": {"lower_order_final": True, "second_difference": "half"}}
    final["theirs"] = multistep(3, solver_type="heun", **lower)
    cases.append(case("dpmpp_3m half, 10 trailing, lower_order_final", "dpmpp_3m", dpm, 1e-11, steps=10, **final))
    dynamic = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1e9}
    cases.append(
        case("dpmpp_2m, 20 steps, dynamic_threshold", "dpmpp_2m", dpm, 1e-11, steps=20, theirs=multistep(2, **dynamic))
    )
    sde: Settings = {"theirs": multistep(2, algorithm_type="sde-dpmsolver++")}
    cases.append(case("dpmpp_2m_sde, 20 steps", "dpmpp_2m_sde", dpm, 1e-11, steps=20, **sde))
    trailing: Settings = {"theirs": {"timestep_spacing": "trailing"}}
    cases.append(case("edm, 20 trailing", "edm", "HeunDiscrete", 1e-11, steps=20, **trailing))
    cases.append(case("ddim, 20 trailing, Euler", "ddim", "EulerDiscrete", 1e-11, steps=20, **trailing))
    ancestral: Settings = {"variance": "", "options": {"eta": 1.0}, **trailing}
    cases.append(case("ddim eta 1, 20 trailing, Euler", "ddim", "EulerAncestralDiscrete", 1e-11, steps=20, **ancestral))
    return cases


def known_cases() -> list[Any]:
    """Return comparisons at settings where the two programs differ by design; their limit is infinite."""
    case, dpm, inf = diffusers_case, "DPMSolverMultistep", float("inf")
    half: Settings = {"options": {"second_difference": "half"}, "theirs": multistep(3)}
    bh2: Settings = {"options": {"order": 2}, "theirs": {"solver_order": 2, "final_sigmas_type": "zero"}}
    return [
        case("dpmpp_3m half, midpoint", "dpmpp_3m", dpm, inf, steps=20, **half),
        case("dpmpp_2m, heun", "dpmpp_2m", dpm, inf, steps=20, theirs=multistep(2, solver_type="heun")),
        case("unipc, bh2", "unipc", "UniPCMultistep", inf, steps=20, **bh2),
    ]


# k-diffusion


def k_sampling(draw: Callable[[], Any]) -> Any:
    """Load k_diffusion/sampling.py alone, since its package imports training code, with float64 and our noise."""
    import torch

    spec = importlib.util.find_spec("k_diffusion")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'k_diffusion'")
    package, utils = types.ModuleType("k_diffusion"), types.ModuleType("k_diffusion.utils")
    package.__path__ = [str(pathlib.Path(spec.origin).parent)]
    package.utils = utils  # type: ignore[attr-defined]
    utils.append_dims = lambda x, n: x[(...,) + (None,) * (n - x.ndim)]  # type: ignore[attr-defined]
    saved = {name: sys.modules.get(name) for name in ("k_diffusion", "k_diffusion.utils", "k_diffusion.sampling")}
    try:
        sys.modules |= {"k_diffusion": package, "k_diffusion.utils": utils}
        sys.modules.pop("k_diffusion.sampling", None)
        module = importlib.import_module("k_diffusion.sampling")
    finally:
        for name, before in saved.items():
            sys.modules.pop(name, None)
            if before is not None:
                sys.modules[name] = before
    module.torch = Double(torch, draw)  # type: ignore[attr-defined]
    return module


def k_case(
    name: str, method: str, theirs: str, options: dict[str, Any] | None = None, grid: str = "karras", **settings: Any
) -> tuple[str, str, float, Callable[[], float]]:
    """Return (name, software, limit, run) of a comparison with k-diffusion on its grid of 20 levels and zero."""

    def run() -> float:
        import torch

        supply = noises()

        def draw() -> Any:
            return torch.tensor(next(supply))

        sampling = k_sampling(draw)
        sigmas = getattr(sampling, f"get_sigmas_{grid}")(20, 0.002, 80.0).to(torch.float64)
        make = {"karras": schedules.edm, "exponential": schedules.ve}[grid]
        schedule = make(sigma_min=0.002, sigma_max=80.0)
        if theirs.endswith("sde"):
            settings["noise_sampler"] = lambda *_: draw()
        with torch.no_grad():
            found = getattr(sampling, theirs)(
                lambda x, sigma: denoiser(x, float(sigma[0]), torch),
                torch.from_numpy(START) * sigmas[0], sigmas, disable=True, **settings,
            ).numpy()  # fmt: skip

        def predict(x: Any, at: Level) -> Prediction:
            sigma = expand(at.sigma, x)
            x0 = denoiser(x, sigma, jnp)
            return Prediction(x0, (x - x0) / sigma, None)

        mine = ours(method, options or {}, schedule, grids.uniform(19), predict, start=80.0 * START)
        return difference(mine, found)

    return name, "k_diffusion", 1e-10, run


def k_cases() -> list[Any]:
    """Return the comparisons with k-diffusion."""
    churn: Settings = {"s_churn": 40.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003}
    options: Settings = {"churn": 40.0, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.003}
    third: Settings = {"options": {"second_difference": "half"}, "eta": 0.0}
    cases = []
    for grid in ("karras", "exponential"):
        cases += [
            k_case(f"ddim, {grid}", "ddim", "sample_euler", grid=grid),
            k_case(f"ode_euler, {grid}", "ode_euler", "sample_euler", grid=grid),
            k_case(f"edm, {grid}", "edm", "sample_heun", grid=grid),
            k_case(f"ode_heun, {grid}", "ode_heun", "sample_heun", grid=grid),
            k_case(f"dpmpp_2m, {grid}", "dpmpp_2m", "sample_dpmpp_2m", grid=grid),
            k_case(f"dpmpp_2m_sde, {grid}", "dpmpp_2m_sde", "sample_dpmpp_2m_sde", grid=grid),
            k_case(f"dpmpp_3m half, {grid}", "dpmpp_3m", "sample_dpmpp_3m_sde", grid=grid, **third),
        ]
    return [*cases, k_case("edm, churn 40, karras", "edm", "sample_heun", options, **churn)]


def in_float64() -> None:
    """Compute in float64 in both programs."""
    jax.config.update("jax_enable_x64", True)
    with contextlib.suppress(ModuleNotFoundError):
        import torch

        torch.set_default_dtype(torch.float64)


def difference(mine: np.ndarray, theirs: np.ndarray) -> float:
    """Return max|mine - theirs| / max|theirs|."""
    return float(np.max(np.abs(mine - theirs)) / np.max(np.abs(theirs)))


def main(argv: list[str]) -> int:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="run the cases whose name or software matches this expression")
    only = parser.parse_args(argv).only
    in_float64()
    versions = [f"jax {jax.__version__}"]
    for package in ("torch", "diffusers", "k-diffusion"):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} not installed")
    print(", ".join(versions))
    print("\n| sampler here | software | relative difference |\n|---|---|--:|")
    failed = []
    for name, software, limit, run in [*diffusers_cases(), *k_cases(), *known_cases()]:
        if not re.search(only, f"{name} {software}"):
            continue
        try:
            found = run()
            shown = f"{found:.1e}" + ("" if limit < 1 else " (known)")
            if not found < limit:
                failed.append(name)
        except ModuleNotFoundError as error:
            shown = f"not run: {error}"
        print(f"| {name} | {software} | {shown} |", flush=True)
    if failed:
        print(f"\nabove their limits: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
