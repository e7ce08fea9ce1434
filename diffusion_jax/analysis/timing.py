"""Speed of a config on this machine: compilation, training, sampling, data, features."""

import itertools
import logging
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import devices
from diffusion_jax.analysis.description import compiled_bytes, describe
from diffusion_jax.data import pipeline
from diffusion_jax.data.source import Source, from_arrays
from diffusion_jax.experiment import guidances, latents, objectives, quality, sources, wiring
from diffusion_jax.metrics.features import FeatureNetwork
from diffusion_jax.process.base import level
from diffusion_jax.runs import record
from diffusion_jax.training import autoencoders, reports, setup

log = logging.getLogger(__name__)

STAND_IN_BYTES = 2**28
"""Bytes of the random images that replace missing data."""
LEAST_SECONDS = 0.2
"""Least duration of one timing, which may hold several runs."""
MOST_SECONDS = 30.0
"""Longest sampling that is timed whole; beyond, at least two steps are timed and the duration is extrapolated."""

Figures = dict[str, Any]


def benchmark(
    config: ConfigDict, repeats: int = 10, started: float | None = None, features: str = "", weights: str = ""
) -> tuple[str, Figures]:
    """Return a text and the measured values by name.

    Units: seconds, bytes, FLOP/s and images/s. repeats: timings per median; timings of the step alone and of the step
    in its loop alternate. started: the `time.perf_counter()` at the start of the command. features, weights: a feature
    network to time as well, see `quality.feature_network`. Raises ValueError if the config does not fit its data or the
    devices, or for repeats < 2.
    """
    started = time.perf_counter() if started is None else started
    if repeats < 2:
        raise ValueError(f"--repeats={repeats}: must be at least 2")
    source, real = data(config)
    network = feature_network(features, source, weights) if features else None
    config = autoencoders.attach(sources.resolve(config, source))
    experiment = wiring.build(config)
    devices.check(config.batch_size, config.accumulate_steps, config.parallel, config.require_accelerator)
    pipeline.check(source, config.seed, 0, config.batch_size, config.data.flip)
    figures = machine() | {"batch_size": config.batch_size, "data": config.data.name if real else "random numbers"}
    log.info("training: compiling")
    values, params = training(config, experiment, source, repeats, started)
    figures |= values
    figures |= flops(config, figures)
    if not objectives.loss_facts(config).classifier:
        log.info("sampling: compiling")
        inner = latents.inside(config, latents.opened(config))
        figures |= sampling(inner, experiment if inner is config else wiring.build(inner), params, repeats)
    if network:
        log.info("features: compiling")
        figures |= extraction(network, source, repeats)
    figures |= memory()
    return text(figures), figures


def data(config: ConfigDict) -> tuple[Source, bool]:
    """Return the training data and True, or random images and False. The images have the shape of the data."""
    try:
        return sources.source(config, "train"), True
    except FileNotFoundError as error:
        if not (config.data.shape and config.data.levels):
            raise
        log.info("random images replace the data (%s)", error)
    shape, levels = tuple(config.data.shape), config.data.levels
    size = int(min(50_000, max(config.batch_size, STAND_IN_BYTES // np.prod(shape))))
    images = np.random.default_rng(0).integers(0, levels, (size, *shape), np.uint8)
    labels = np.arange(size, dtype=np.int32) % max(1, config.data.classes)
    return from_arrays("random", images, labels, levels, config.data.classes), False


def training(
    config: ConfigDict, experiment: wiring.Experiment, source: Source, repeats: int, started: float
) -> tuple[Figures, Any]:
    """Time the training step alone, in its loop, and the data alone. Returns the values and the trained parameters."""
    key, shapes = setup.train_key(config), setup.state_shapes(config, experiment)
    step: Any = setup.training_step(config, experiment, shapes)
    train_state = setup.initial_state(config, experiment, shapes)
    batches = setup.device_batches(config, source, 0, 0)
    waits = []

    def alone(times: int) -> None:
        nonlocal train_state
        for _ in range(times):
            train_state, metrics = step(train_state, batch, key)
        jax.block_until_ready((train_state, metrics))

    def in_loop(times: int) -> None:
        nonlocal train_state
        window = []
        for _ in range(times):
            requested = time.perf_counter()
            following = next(batches)
            waits.append(time.perf_counter() - requested)
            train_state, metrics = step(train_state, following, key)
            window.append(metrics)
        reports.summary(jax.device_get(window))

    try:
        batch = next(batches)
        began = time.perf_counter()
        figures: Figures = {}
        if config.parallel != "pmap":
            step = step.lower(train_state, batch, key).compile()
            figures = {"compiled_bytes": compiled_bytes(step)}
        alone(1)
        now = time.perf_counter()
        first = {"train_compile_seconds": now - began, "first_step_seconds": now - started}
        log.info("training: timing")
        (of_step, of_loop), times = in_turn([alone, in_loop], repeats)
    finally:
        batches.close()
    figures |= first | summary("train_step", of_step) | summary("loop_step", of_loop)
    figures["train_compile_seconds"] -= figures["train_step_seconds"]
    figures["images_per_second"] = config.batch_size / figures["loop_step_seconds"]
    figures["overhead_share"] = float(np.median(1 - of_step / of_loop))
    figures["data_wait_share"] = sum(waits[-repeats * times :]) / (times * float(of_loop.sum()))
    figures["data_images_per_second"] = data_alone(config, source)
    return figures, train_state.params


def data_alone(config: ConfigDict, source: Source) -> float:
    """Return the images/s of this process's batches, without a device."""
    rows = devices.local_rows(config.batch_size)
    made = pipeline.batches(
        source, config.seed, 0, config.batch_size, config.data.flip, rows, config.data.workers, sources.coupling(config)
    )
    try:
        next(made)
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < 5 * LEAST_SECONDS:
            count += len(next(made)["index"])
        return count / (time.perf_counter() - began)
    finally:
        getattr(made, "close", lambda: None)()


def network_call(config: ConfigDict, experiment: wiring.Experiment) -> tuple[Callable[..., jax.Array], tuple[Any, ...]]:
    """Return a call of the network at t = 1/2, and its inputs after params.

    The batch has sampler.tile examples per device.
    """
    number = config.sampler.tile * jax.device_count()

    def call(params: Any, x: jax.Array, label: jax.Array) -> jax.Array:
        at = level(experiment.schedule(params), jnp.full(len(x), 0.5))
        return experiment.predict(params, x, at, label if guidances.uses_label(config) else None).x0

    x = np.random.default_rng(0).standard_normal((number, *config.data.shape)).astype(np.float32)
    return devices.map_over_devices(call, replicated=1), (x, np.zeros(number, np.int32))


def sampling(config: ConfigDict, experiment: wiring.Experiment, params: Any, repeats: int) -> Figures:
    """Time a network call and the whole sampler, for sampler.tile samples per device."""
    number = config.sampler.tile * jax.device_count()
    seeds = np.arange(number, dtype=np.uint32)

    def walk(params: Any, seeds: jax.Array) -> jax.Array:
        x, keys = experiment.sampler.start(params, seeds)
        some = jax.tree.map(lambda row: row[:steps], experiment.sampler.coefficients(params))
        label = experiment.sampler.labels(seeds)
        return experiment.sampler.walk(params, x, experiment.sampler.init_carry(x), keys, some, label=label)[0]

    call, inputs = network_call(config, experiment)
    if experiment.sampler.method.direct:
        call, inputs = devices.map_over_devices(experiment.sampler.sample, replicated=1), (seeds,)
    jax.block_until_ready(call(params, *inputs))
    (of_call,), _ = in_turn(
        [lambda times: [jax.block_until_ready(call(params, *inputs)) for _ in range(times)]], repeats
    )
    figures = summary("network_call", of_call) | {"network_call_images": number}
    method = experiment.sampler.method
    if method.adaptive or method.direct:  # adaptive steps: a part of them says nothing; direct: no more calls
        return figures
    calls = wiring.count_calls(config, params)
    whole = jax.tree.leaves(jax.eval_shape(experiment.sampler.coefficients, params))[0].shape[0]
    steps = int(np.clip(whole * MOST_SECONDS / (calls * figures["network_call_seconds"]), min(2, whole), whole))
    began = time.perf_counter()
    made: Any = devices.map_over_devices(walk, replicated=1)
    sample = made.lower(params, seeds).compile()
    figures["sampling_compile_seconds"] = time.perf_counter() - began
    jax.block_until_ready(sample(params, seeds))
    began = time.perf_counter()
    jax.block_until_ready(sample(params, seeds))
    seconds = (time.perf_counter() - began) * whole / steps
    return figures | {
        "network_calls": calls,
        "sampling_seconds": seconds,
        "sampling_images": number,
        "sampling_steps_timed": steps,
        "sampling_steps": whole,
        "network_share_of_sampling": calls * figures["network_call_seconds"] / seconds,
    }


def feature_network(name: str, source: Source, weights: str) -> FeatureNetwork:
    """Return the network, with random weights if the public ones are missing."""
    try:
        return quality.feature_network(name, source.shape, source.levels, weights=weights)
    except FileNotFoundError as error:
        if weights:
            raise
        log.info("random weights replace the public ones (%s)", error)
    return quality.feature_network(name, source.shape, source.levels, drawn=True)


def extraction(network: FeatureNetwork, source: Source, repeats: int) -> Figures:
    """Time a call of a feature network, with the results on the host.

    The batch has network.tile examples on each device.
    """
    number = network.tile * (jax.device_count() if network.compiled else 1)
    x = source.read(np.arange(number) % source.size)[0]
    apply = devices.map_over_devices(network.apply, replicated=1) if network.compiled else network.apply
    params = devices.replicate(network.params) if network.compiled else network.params
    (of_call,), _ = in_turn([lambda times: [jax.device_get(apply(params, x)) for _ in range(times)]], repeats)
    of_features = {"features": network.name, "features_images_per_second": number / float(np.median(of_call))}
    return summary("features_call", of_call) | {"features_call_images": number} | of_features


def in_turn(works: list[Callable[[int], Any]], repeats: int) -> tuple[list[np.ndarray], int]:
    """Return seconds per run of each work [repeats], and runs per timing."""
    began = time.perf_counter()
    works[0](1)
    times = max(1, round(LEAST_SECONDS / (time.perf_counter() - began)))
    for work in works:
        work(times)
    seconds = np.empty((len(works), repeats))
    for i, (row, work) in itertools.product(range(repeats), enumerate(works)):
        began = time.perf_counter()
        work(times)
        seconds[row, i] = (time.perf_counter() - began) / times
    return list(seconds), times


def summary(name: str, seconds: np.ndarray) -> Figures:
    """Return median and quartiles by name."""
    low, median, high = np.percentile(seconds, (25, 50, 75))
    return {f"{name}_seconds": float(median), f"{name}_quartiles": [float(low), float(high)]}


def flops(config: ConfigDict, figures: Figures) -> Figures:
    """Return the FLOPs of a step per device, and its share of peak speed.

    The peak is the measured speed of a large matrix product of the same dtype on this device, not the speed in a data
    sheet.
    """
    each = describe(config)[1]["train_step_flops"]
    peak = product_flops(config.network.get(config.network.name, {}).get("dtype", "float32"))
    reached = each / figures["train_step_seconds"]
    return {
        "train_step_flops": each,
        "flops_per_second": reached,
        "peak_flops_per_second": peak,
        "share_of_peak": reached / peak,
    }


def product_flops(dtype: str, repeats: int = 5) -> float:
    """Return the FLOP/s of a square matrix product on the first device, best of `repeats`."""
    n = 2048 if jax.default_backend() == "cpu" else 8192
    a = jax.random.normal(jax.random.key(0), (n, n), dtype)
    product = jax.jit(jnp.matmul, compiler_options=devices.compiler_options())
    jax.block_until_ready(product(a, a))
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(product(a, a))
        seconds.append(time.perf_counter() - began)
    return 2 * n**3 / min(seconds)


def machine() -> Figures:
    """Return device, cores and versions."""
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "flax": flax.__version__},
    }


def memory() -> Figures:
    """Return the peak memory in bytes of this process and of the first device."""
    peaks = record.peak_memory()
    known = {"process_peak_bytes": peaks["host"], "device_peak_bytes": peaks["device"]}
    return {name: size for name, size in known.items() if size is not None}


def text(figures: Figures) -> str:
    """Return the values as a text."""
    f = figures

    def seconds(name: str) -> str:
        low, high = (1e3 * q for q in f[f"{name}_quartiles"])
        return f"{1e3 * f[f'{name}_seconds']:,.2f} ms (quartiles {low:,.2f} to {high:,.2f})"

    versions = ", ".join(f"{name} {version}" for name, version in f["versions"].items())
    lines = [
        f"machine      {f['devices']} x {f['device']}, {f['cores']} cores; {versions}",
        f"batch        {f['batch_size']} of {f['data']}",
        f"compile      {f['train_compile_seconds']:.1f} s; first step {f['first_step_seconds']:.1f} s after the start",
        f"train step   {seconds('train_step')}, alone",
        f"in its loop  {seconds('loop_step')}: {f['images_per_second']:,.1f} images/s",
        f"overhead     {100 * f['overhead_share']:.1f} % of the loop is not the step; waiting for data "
        f"{100 * f['data_wait_share']:.1f} %",
        f"data alone   {f['data_images_per_second']:,.0f} images/s",
        f"FLOPs        {f['train_step_flops'] / 1e9:,.1f} GFLOP a step and device, {f['flops_per_second'] / 1e9:,.1f} "
        f"GFLOP/s: {100 * f['share_of_peak']:.0f} % of a large matrix product's "
        f"{f['peak_flops_per_second'] / 1e9:,.0f}",
    ]
    if "network_call_seconds" in f:
        lines.append(f"network call {seconds('network_call')} for {f['network_call_images']} images")
    if "sampling_seconds" in f:
        timed = f["sampling_steps_timed"]
        how = "" if timed == f["sampling_steps"] else f" (from {timed} steps)"
        lines.append(
            f"sampling     {f['sampling_seconds']:,.2f} s{how} for {f['sampling_images']} images in "
            f"{f['network_calls']:,} calls, {100 * f['network_share_of_sampling']:.0f} % of it the network; compile "
            f"{f['sampling_compile_seconds']:.1f} s"
        )
    if "features" in f:
        minutes = 50_000 / f["features_images_per_second"] / 60
        lines.append(
            f"features     {seconds('features_call')} for {f['features_call_images']} images through {f['features']}: "
            f"{f['features_images_per_second']:,.1f} images/s, {minutes:,.0f} minutes for 50,000"
        )
    peaks = {
        "compiler, of the train step": f.get("compiled_bytes"),
        "device, at the peak": f.get("device_peak_bytes"),
        "process, at the peak": f["process_peak_bytes"],
    }
    known = [f"{name} {size / 2**20:,.0f} MiB" for name, size in peaks.items() if size is not None]
    return "\n".join([*lines, f"memory       {'; '.join(known)}"])
