"""Print what MNIST and Fashion-MNIST reach without a model: the figures beside which a model's stand.

    python launch/baselines.py data/mnist data/fashion-mnist [--draws=N] > table.md

- bits/dim of the 10,000 test images by codecs, and by a histogram of each pixel of the training images, plus one;
- Fréchet distance to the training images in grey28 features: of the test images, and of draws from a Gaussian with the
  mean and covariance of the training pixels, clipped and rounded to grey levels;
- Parzen windows around 10,000 training images, the 1,000 last ones choosing the width: mean log density of the test
  images in bits, for each of N draws.
"""

import argparse
import bz2
import io
import lzma
import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from diffusion_jax.data.idx import idx
from diffusion_jax.metrics import feature_networks, frechet, parzen_window
from diffusion_jax.metrics.features import extract


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", help="directories of IDX files")
    parser.add_argument("--draws", type=int, default=3)
    args = parser.parse_args()
    for path in args.sets:
        train, test = (source.read(np.arange(source.size))[0] for source in (idx("train", path), idx("heldout", path)))
        print(f"\n| {path} | value |\n|---|--:|")
        for name, bits in code_lengths(train, test).items():
            print(f"| {name}, bits/dim | {bits:.3f} |")
        rng = np.random.default_rng(0)
        for name, value in distances(train, test, gaussian(train, len(test), rng)).items():
            print(f"| Fréchet distance of {name} | {value:.3f} |")
        for _ in range(args.draws):
            chosen = rng.permutation(len(train) - parzen_window.VALIDATION)[: parzen_window.SAMPLES]
            arrays = train[chosen], train[-parzen_window.VALIDATION :], test
            found = parzen_window.estimate(*(x.reshape(len(x), -1) / 255 for x in arrays))
            bits, error = found.mean / math.log(2), found.stderr / math.log(2)
            print(f"| Parzen windows around training images, bits | {bits:.1f} ± {error:.1f} |", flush=True)


def code_lengths(train: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """Return the bits per pixel of `test` [N,H,W,1] by name of the code."""
    raw, side = test.tobytes(), math.isqrt(len(test))
    rows = test[: side**2, ..., 0].reshape(side, side, *test.shape[1:3])
    mosaic = rows.swapaxes(1, 2).reshape(side * test.shape[1], side * test.shape[2])

    def picture(**options: Any) -> int:
        file = io.BytesIO()
        Image.fromarray(mosaic).save(file, **options)
        return file.tell()

    codes: dict[str, Callable[[], int]] = {
        "gzip": lambda: len(zlib.compress(raw, 9)),
        "bz2": lambda: len(bz2.compress(raw, 9)),
        "xz": lambda: len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)),
        "PNG, one mosaic": lambda: picture(format="PNG", optimize=True),
        "WebP lossless, one mosaic": lambda: picture(format="WEBP", lossless=True, quality=100, method=6),
    }
    sizes = {name: 8 * code() / (mosaic if "mosaic" in name else test).size for name, code in codes.items()}
    counts = np.ones((256, *train.shape[1:]))
    for level in range(256):
        counts[level] += (train == level).sum(0)
    log_p = np.log2(counts / counts.sum(0))
    sizes["a histogram per pixel"] = -float(np.take_along_axis(log_p, test.astype(np.int64), axis=0).mean())
    return sizes


def gaussian(train: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return `count` grey images drawn from a Gaussian with the mean and covariance of the pixels of `train`."""
    flat = train.reshape(len(train), -1).astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(flat.T))
    x = flat.mean(0) + rng.standard_normal((count, len(values))) * np.sqrt(np.maximum(values, 0)) @ vectors.T
    return x.round().clip(0, 255).astype(np.uint8).reshape(count, *train.shape[1:])


def distances(train: np.ndarray, test: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
    """Return the Fréchet distances to `train` by name."""
    network = feature_networks.on_stored(feature_networks.grey28(train.shape[1:], 256), 256)

    def statistics(x: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
        return frechet.statistics(extract(network, 256, [x], len(x), what).features)

    distance = frechet.frechet_from(*statistics(train, "training images"))
    sets = {"test images": test, "draws from a Gaussian": drawn}
    return {f"{len(x):,} {name}": distance(*statistics(x, name)) for name, x in sets.items()}


if __name__ == "__main__":
    main()
