"""Size of a config without training it. Parameters, FLOPs, memory, ends of the schedule, devices."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffusion_jax import devices
from diffusion_jax.experiment import paths, sources, wiring
from diffusion_jax.experiment.objectives import loss_facts
from diffusion_jax.process.base import in_float64, level
from diffusion_jax.runs import metric_log
from diffusion_jax.training import autoencoders, setup, step


def describe(config: ConfigDict, compile: bool = False) -> tuple[str, dict[str, Any]]:
    """Return a text and values by name, for one device's share of the batch.

    The memory of the state and of the activations is computed from shapes; compile: also compile the training step, for
    the compiler's own value. FLOPs are counted as in `flops`.
    """
    if not config.data.shape:
        config = sources.resolve(config, sources.source(config, "train"))
    config = autoencoders.attach(config)
    experiment = wiring.build(config)
    devices.check(config.batch_size, config.accumulate_steps, config.parallel)
    shapes = setup.state_shapes(config, experiment)
    share = config.batch_size // jax.device_count()
    kind = jnp.uint8 if config.data.levels else jnp.float32
    batch = {
        "x0": jax.ShapeDtypeStruct((share, *config.data.shape), kind),
        "label": jax.ShapeDtypeStruct((share,), jnp.int32),
        "index": jax.ShapeDtypeStruct((share,), jnp.int32),
    }
    train_step = step.make_train_step(
        experiment.loss,
        experiment.times,
        experiment.optimizer,
        config.batch_size,
        config.accumulate_steps,
        to_model=experiment.to_model,
    )
    at_once = step.make_train_step(
        experiment.loss, experiment.times, experiment.optimizer, config.batch_size, to_model=experiment.to_model
    )
    arguments = shapes, batch, jax.eval_shape(lambda: jax.random.key(0))
    figures: dict[str, Any] = {
        "parameters": count(shapes.params),
        "state_bytes": size(shapes),
        "state_bytes_per_device": devices.device_bytes(shapes, config.parallel),
        "activation_bytes": activations(experiment, shapes.params, batch, config.accumulate_steps),
        "train_step_flops": flops(at_once, *arguments),  # the compiler counts a loop, as accumulation is, only once
        "data_shape": list(config.data.shape),
        "batch_per_device": share,
        "devices": [str(device) for device in jax.devices()],
    }
    if not loss_facts(config).direct:
        ends = in_float64(level, paths.initial_schedule(config), np.array([0.0, 1.0]))
        figures["schedule_ends"] = {
            f"t={t:g}": {"alpha": float(np.exp(a)), "sigma": float(np.exp(s))}
            for t, a, s in zip((0, 1), ends.log_alpha, ends.log_sigma, strict=True)
        }
    if compile:
        compiled = (
            jax.jit(train_step, donate_argnums=0, compiler_options=devices.compiler_options())
            .lower(*arguments)
            .compile()
        )
        if (needed := compiled_bytes(compiled)) is not None:
            figures["compiled_bytes"] = needed
    return text(config, shapes.params, figures), figures


def flops(function: Callable[..., Any], *arguments: Any) -> float:
    """Return the FLOPs of a call, as the compiler counts them for a TPU.

    They are counted before optimisation, so they are the same on every device. They include random bits. A CPU needs
    fewer, as its convolutions use fewer products.
    """
    lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=("tpu",))
    return float((lowered.cost_analysis() or {}).get("flops", math.nan))


def count(tree: Any) -> int:
    """Return the number of elements of all arrays of a tree."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def size(tree: Any) -> int:
    """Return the bytes of all arrays of a tree."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def compiled_bytes(compiled: Any) -> int | None:
    """Return the bytes of device memory of a compiled program; None if unknown. The number is the compiler's."""
    needed = compiled.memory_analysis()
    if needed is None:
        return None
    return int(
        needed.argument_size_in_bytes + needed.output_size_in_bytes
        - needed.alias_size_in_bytes + needed.temp_size_in_bytes
    )  # fmt: skip


def activations(experiment: wiring.Experiment, params: Any, batch: Any, accumulate_steps: int) -> int:
    """Return the bytes of the residuals of the forward pass, from their shapes."""
    part = jax.tree.map(lambda x: jax.ShapeDtypeStruct((x.shape[0] // accumulate_steps, *x.shape[1:]), x.dtype), batch)

    def residuals(params: Any, batch: Any) -> Any:
        t = jnp.full(batch["index"].shape, 0.5)
        keys = jax.vmap(jax.random.key)(batch["index"])
        batch = batch | {"x0": experiment.to_model(batch["x0"], keys)}
        return jax.vjp(lambda params: experiment.loss(params, batch, t, keys)[0].mean(), params)[1]

    return max(0, size(jax.eval_shape(residuals, params, part)) - size(params))


def text(config: ConfigDict, params: Any, figures: dict[str, Any]) -> str:
    """Return the values as a text."""
    mib = {name: figures[name] / 2**20 for name in ("state_bytes", "activation_bytes")}
    lines = [
        metric_log.parameter_table(params),
        f"data         {config.data.name}, shape {tuple(figures['data_shape'])}, levels {config.data.levels}",
        f"parameters   {figures['parameters']:,}",
        f"train step   {figures['train_step_flops'] / 1e9:,.1f} GFLOP for {figures['batch_per_device']} examples",
        f"state        {mib['state_bytes']:,.0f} MiB (arithmetic: parameters, averages, optimiser)",
        f"on a device  {figures['state_bytes_per_device'] / 2**20:,.0f} MiB of it, with parallel={config.parallel}",
        f"activations  {mib['activation_bytes']:,.0f} MiB (arithmetic: what is stored for the backward pass, unfused)",
    ]
    if "compiled_bytes" in figures:
        lines.append(
            f"compiled     {figures['compiled_bytes'] / 2**20:,.0f} MiB (the compiler: state, batch, temporaries)"
        )
    for end, scales in figures.get("schedule_ends", {}).items():
        lines.append(f"schedule     {end}: alpha {scales['alpha']:.6g}, sigma {scales['sigma']:.6g}")
    lines.append(f"devices      {', '.join(figures['devices'])}")
    return "\n".join(lines)
