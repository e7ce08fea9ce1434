"""Train the network behind `--features=digits` on the embedded training digits, and write it into the package.

    python launch/digit_features.py [--out=FILE.npz] [--steps=N]

600 steps of Adam on batches of 128, with noise on the pixels, shifts by a pixel, and labels that are 0.9 sure. The same
machine and versions give the same bytes; others, the same features up to rounding that has grown. Takes about a minute
on two CPU cores. Prints the accuracy on the 297 held-out digits; they are not trained on.
"""

import argparse
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffusion_jax.data import embedded, pipeline
from diffusion_jax.data.scaling import to_model
from diffusion_jax.metrics import feature_weights
from diffusion_jax.metrics.digit_features import DigitFeatures

SEED, BATCH, STEPS = 0, 128, 600
NOISE = 0.15
SURE = 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=str(feature_weights.DIGITS), type=pathlib.Path)
    parser.add_argument("--steps", default=STEPS, type=int)
    args = parser.parse_args()
    params = train(args.steps)
    feature_weights.write(args.out, params)
    print(f"{args.out}: {args.out.stat().st_size:,} bytes; {accuracy(params):.4f} of the held-out digits are right")


def train(steps: int) -> Any:
    """Return the trained parameters."""
    network, source = DigitFeatures(), embedded.digits("train")
    key_init, key_train = jax.random.split(jax.random.key(SEED))
    params = network.init(key_init, jnp.zeros((1, *source.shape)))["params"]
    optimizer = optax.adamw(optax.cosine_decay_schedule(3e-3, steps), weight_decay=1e-2)
    state = optimizer.init(params)

    @jax.jit
    def step(params: Any, state: Any, n: int, x0: jax.Array, label: jax.Array) -> tuple[Any, Any]:
        key_noise, key_shift = jax.random.split(jax.random.fold_in(key_train, n))
        x = to_model(x0, source.levels)
        shifts = jax.random.randint(key_shift, (len(x), 2), -1, 2)
        x = jax.vmap(lambda image, shift: jnp.roll(image, shift, (0, 1)))(x, shifts)
        x += NOISE * jax.random.normal(key_noise, x.shape)
        target = optax.smooth_labels(jax.nn.one_hot(label, source.classes), 1 - SURE)

        def loss(params: Any) -> jax.Array:
            return optax.softmax_cross_entropy(network.apply({"params": params}, x)[1], target).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for n, batch in zip(range(steps), pipeline.batches(source, SEED, 0, BATCH, flip=False), strict=False):
        params, state = step(params, state, n, batch["x0"], batch["label"])
    return jax.device_get(params)


def accuracy(params: Any) -> float:
    """Return the accuracy on the held-out digits."""
    source = embedded.digits("heldout")
    x0, label = source.read(np.arange(source.size))
    _, logits = DigitFeatures().apply({"params": params}, to_model(x0, source.levels))
    return float((np.asarray(logits).argmax(1) == label).mean())


if __name__ == "__main__":
    main()
