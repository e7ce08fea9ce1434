"""Train the network behind `--features=grey28` on MNIST and Fashion-MNIST, and write it into the package.

    python launch/grey28_features.py --mnist=DIR --fashion=DIR [--out=FILE.npz] [--steps=N]

12,000 steps of Adam on batches of 64, a quarter of them digits, with labels that are 0.9 sure.
Prints the accuracy on the 10,000 test images of each set, which are not trained on: the class among all twenty.
"""

import argparse
import functools
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffusion_jax import devices
from diffusion_jax.data.idx import idx
from diffusion_jax.data.scaling import to_model
from diffusion_jax.data.source import Source
from diffusion_jax.metrics import feature_weights
from diffusion_jax.metrics.grey28_features import Grey28Features

SEED, BATCH, STEPS = 0, 64, 12_000
DIGITS = BATCH // 4
SURE = 0.9
RATE = 3e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", default="data/mnist")
    parser.add_argument("--fashion", default="data/fashion-mnist")
    parser.add_argument("--out", default=str(feature_weights.GREY28), type=pathlib.Path)
    parser.add_argument("--steps", default=STEPS, type=int)
    args = parser.parse_args()
    params = train([idx("train", path, 10) for path in (args.mnist, args.fashion)], args.steps)
    feature_weights.write(args.out, params)
    print(f"{args.out}: {args.out.stat().st_size:,} bytes; test images whose class is found:")
    for offset, path in enumerate((args.mnist, args.fashion)):
        print(f"{path}: {accuracy(params, idx('heldout', path, 10), 10 * offset):.4f}")


def train(sets: list[Source], steps: int) -> Any:
    """The trained parameters."""
    network = Grey28Features()
    params = network.init(jax.random.key(SEED), jnp.zeros((1, 28, 28, 1)))["params"]
    rate = optax.warmup_cosine_decay_schedule(0, RATE, steps // 20, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=1e-2))
    state = optimizer.init(params)

    @functools.partial(jax.jit, compiler_options=devices.compiler_options())
    def step(params: Any, state: Any, x0: jax.Array, label: jax.Array) -> tuple[Any, Any, jax.Array]:
        target = optax.smooth_labels(jax.nn.one_hot(label, 20), 1 - SURE)

        def loss(params: Any) -> jax.Array:
            return optax.softmax_cross_entropy(network.apply({"params": params}, to_model(x0, 256))[1], target).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    rng, started = np.random.default_rng(SEED), time.perf_counter()
    for n in range(steps):
        parts = [
            source.read(rng.integers(0, source.size, count))
            for source, count in zip(sets, (DIGITS, BATCH - DIGITS), strict=True)
        ]
        x0 = np.concatenate([x for x, _ in parts])
        label = np.concatenate([of_set + 10 * i for i, (_, of_set) in enumerate(parts)])
        params, state, value = step(params, state, x0, label)
        if n % 250 == 0:
            print(f"step {n}: loss {value:.4f}, {time.perf_counter() - started:.0f} s", flush=True)
    return jax.device_get(params)


def accuracy(params: Any, source: Source, offset: int) -> float:
    """The share of the images of a set whose class is found, among those of both sets."""
    apply = jax.jit(lambda x: Grey28Features().apply({"params": params}, to_model(x, 256))[1])
    x0, label = source.read(np.arange(source.size))
    logits = np.concatenate([apply(x0[at : at + 500]) for at in range(0, len(x0), 500)])
    return float((logits.argmax(1) == label + offset).mean())


if __name__ == "__main__":
    main()
