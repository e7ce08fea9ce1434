"""Expected efficiency of data-parallel training on many devices, as the tables of docs/results/scaling.md.

    python launch/scaling.py                                                 # what docs/results/scaling.md shows
    python launch/scaling.py --step_seconds=0.021 --batch=16 cifar10_ddpm    # with a step time that you have measured

With n devices and B bytes of gradients (float32, as the parameters are):

    wire per device and step   2 (n - 1)/n B                             a ring all-reduce
    seconds                    wire/(achieved * bandwidth) + 2 ceil(log2 n) * latency
    with parallel=fsdp         half as much again for what is divided: parameters are gathered twice, gradients once
    efficiency                 step/(step + seconds), nothing hidden; step/(step + max(0, seconds - 2/3 step)), the
                               exchange hidden behind the backward pass, which is two thirds of a step
    step, unless it is given   FLOPs/(mfu * peak)

Within a node the bandwidth is NVLink's, of one GPU in one direction. Over several nodes it is that of all network cards
of a node if that is less: every byte of a ring leaves each node once, whatever its number of GPUs. A torus of TPUs has
one. Parameters, state and FLOPs come from the package: FLOPs of a step are three times those of a forward pass.
"""

import argparse
import math
import pathlib
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # for configs/

from diffusion_jax import config as configs
from diffusion_jax import devices
from diffusion_jax.analysis.description import flops, size
from diffusion_jax.experiment import wiring
from diffusion_jax.training import setup

DEVICES = (8, 64, 256, 1024, 4096)


class Machine(NamedTuple):
    """Published figures of a machine; bytes per second are those of one direction."""

    name: str
    peak: float
    """Dense bfloat16 FLOP/s of a device."""
    inside: float
    """Bytes/s of a device's links to the others of its node."""
    between: float
    """Bytes/s of all network cards of a node."""
    per_host: int
    """Devices of a node, each of which is one process."""


MACHINES = (
    # NVIDIA's data sheets: H100 SXM5 989.4 TFLOP/s, NVLink 900 GB/s both ways; DGX H100 with 8 ports of 400 Gb/s.
    Machine("DGX H100, 8 x 400 Gb/s", 989.4e12, 450e9, 8 * 50e9, 8),
    Machine("8 x H100, 1 x 100 Gb/s", 989.4e12, 450e9, 12.5e9, 8),
    # docs.cloud.google.com/tpu/docs/v4: 275 TFLOP/s; an all-reduce of 1.1 PB/s over a pod of 4,096 chips.
    Machine("TPU v4", 275e12, 1.1e15 / 4096, math.inf, 4),
)
RECIPES = {"cifar10_ddpm": 128, "lsun_church256": 8}
"""Recipes of the tables, and examples per device."""


class Model(NamedTuple):
    """Figures of a recipe that do not depend on the machine."""

    params: Any
    """Shapes, as those of the state."""
    state: Any
    flops: float
    """Of a training step, for one example."""


def model(recipe: str) -> Model:
    """Return the figures of configs/RECIPE.py, without data and without compiling."""
    config = configs.load(recipe)
    experiment = wiring.build(config)
    key = jax.random.key(0)
    shapes = setup.state_shapes(config, experiment)
    example = {
        "x0": jax.ShapeDtypeStruct((1, *config.data.shape), jnp.uint8),
        "label": jax.ShapeDtypeStruct((1,), jnp.int32),
        "index": jax.ShapeDtypeStruct((1,), jnp.int32),
    }

    def forward(params: Any, batch: Any) -> Any:
        batch = batch | {"x0": experiment.to_model(batch["x0"], key[None])}
        return experiment.loss(params, batch, jnp.full(1, 0.5), key[None])[0]

    return Model(shapes.params, shapes, 3 * flops(forward, shapes.params, example))


def wire(n: int, gradient_bytes: int) -> float:
    """Return the bytes that a device sends, and receives, in a step."""
    return 2 * (n - 1) / n * gradient_bytes


def exchange(n: int, gradient_bytes: int, machine: Machine, achieved: float, latency: float) -> float:
    """Return the seconds of the all-reduce of a step."""
    bandwidth = machine.inside if n <= machine.per_host else min(machine.inside, machine.between)
    return wire(n, gradient_bytes) / (achieved * bandwidth) + 2 * math.ceil(math.log2(n)) * latency


def efficiency(step: float, seconds: float) -> tuple[float, float]:
    """Return the share of the time spent on computing, without and with overlap of the exchange."""
    return step / (step + seconds), step / (step + max(0.0, seconds - 2 / 3 * step))


def divided(tree: Any, n: int) -> int:
    """Return the bytes of the arrays that `parallel=fsdp` divides among n devices."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if math.prod(leaf.shape) >= devices.sharding.LEAST_SHARDED]
    return size([leaf for leaf in leaves if any(length % n == 0 for length in leaf.shape)])


def tables(recipe: str, batch: int, args: argparse.Namespace) -> str:
    """Return Markdown: a description of the recipe and a row for each number of devices."""
    found = model(recipe)
    gradients, whole = size(found.params), size(found.state)
    steps = [args.step_seconds or batch * found.flops / (args.mfu * machine.peak) for machine in MACHINES]
    whence = "as given" if args.step_seconds else f"assumed: {args.mfu:.0%} of the peak in bfloat16"
    ms = ", ".join(f"{1e3 * step:.1f}" for step in steps)
    lines = [
        f"**{recipe}**, {batch} examples a device: {gradients / 4e6:.1f} M parameters, {gradients / 1e6:.0f} MB of "
        f"gradients, {found.flops / 1e9:,.0f} GFLOP an example. Steps of {ms} ms on the "
        f"three machines ({whence}). State and checkpoint: {whole / 1e9:.2f} GB, "
        f"written in {whole / (1e9 * args.storage):.1f} s at {args.storage:g} GB/s.",
        "",
        f"| devices | global batch | MB on the wire | {' | '.join(machine.name for machine in MACHINES)} "
        "| `fsdp`: state a device | `fsdp`: MB on the wire | a restart reads |",
        "|--:|--:|--:|" + "--:|" * len(MACHINES) + "--:|--:|--:|",
    ]
    for n in DEVICES:
        row = [f"{n:,}", f"{n * batch:,}", f"{wire(n, gradients) / 1e6:.0f}"]
        for machine, step in zip(MACHINES, steps, strict=True):
            seconds = exchange(n, gradients, machine, args.achieved, 1e-6 * args.latency)
            exposed, hidden = efficiency(step, seconds)
            row.append(f"{1e3 * seconds:.1f} ms: {exposed:.0%}, {hidden:.0%}")
        part = divided(found.state, n)
        gathered = wire(n, gradients) + wire(n, divided(found.params, n)) / 2
        row += [f"{(whole - part + part / n) / 1e6:,.0f} MB", f"{gathered / 1e6:.0f}"]
        row.append(f"{n // MACHINES[0].per_host * whole / 1e9:,.1f} GB")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=list(RECIPES), help="names of files in configs/, without .py")
    parser.add_argument("--batch", type=int, help="examples per device")
    parser.add_argument("--step_seconds", type=float, help="measured, of one device, for all machines")
    parser.add_argument("--mfu", default=0.3, type=float, help="share of the peak that a step reaches, if not measured")
    parser.add_argument("--achieved", default=0.8, type=float, help="share of the published bandwidths that is reached")
    parser.add_argument("--latency", default=10.0, type=float, help="microseconds of a message")
    parser.add_argument("--storage", default=1.0, type=float, help="GB/s to where checkpoints go")
    args = parser.parse_args(argv)
    return "\n\n".join(tables(recipe, args.batch or RECIPES.get(recipe, 8), args) for recipe in args.recipes)


if __name__ == "__main__":
    print(main())
