"""Watch the arithmetic of this machine while the tests run, and write down every wrong result.

    python tests/canary.py FILE

Repeats fixed computations of NumPy and JAX until it is killed. Sums and products of whole numbers are compared with
their exact values; cosines and exponentials must repeat bit for bit and agree with Python's own. Each wrong result
appends a line to FILE, so an empty file says that none was seen. launch/test.sh runs it beside the tests.
"""

import math
import operator
import pathlib
import sys
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

N, PAUSE = 2048, 0.1
Computation = Callable[[], np.ndarray]


def computations() -> dict[str, tuple[Computation, np.ndarray]]:
    """Return each computation with its exact result, or with its first one where floats are rounded."""
    whole, angles = np.arange(1.0, N + 1), np.linspace(-9, 9, N)
    matrix = (np.arange(64 * 64) % 17).reshape(64, 64).astype(np.float32)
    rows = matrix.astype(int).tolist()
    product = np.array([[sum(map(operator.mul, a, b)) for b in zip(*rows, strict=True)] for a in rows], np.float32)
    cosine, multiply = jax.jit(jnp.cos), jax.jit(jnp.matmul)
    exact: dict[str, tuple[Computation, np.ndarray]] = {
        "numpy dot": (lambda: np.dot(whole, whole), np.float64(N * (N + 1) * (2 * N + 1) // 6)),
        "numpy matmul": (lambda: matrix @ matrix, product),
        "jax matmul": (lambda: np.asarray(multiply(matrix, matrix)), product),
    }
    rounded: dict[str, tuple[Computation, np.ndarray, float]] = {
        "numpy cos": (lambda: np.cos(angles), np.array([math.cos(x) for x in angles]), 1e-15),
        "numpy exp": (lambda: np.exp(angles), np.array([math.exp(x) for x in angles]), 1e-15),
        "jax cos": (lambda: np.asarray(cosine(angles)), np.array([math.cos(x) for x in angles]), 1e-6),
    }
    for name, (compute, close, tolerance) in rounded.items():
        first = compute()
        good = np.allclose(first, close, rtol=4 * tolerance, atol=4 * tolerance)
        exact[name] = compute, first if good else close
    return exact


def wrong(table: dict[str, tuple[Computation, np.ndarray]]) -> Iterator[str]:
    """Yield the name of every computation whose result is not the expected one."""
    return (name for name, (compute, expected) in table.items() if not np.array_equal(compute(), expected))


if __name__ == "__main__":
    table, file = computations(), pathlib.Path(sys.argv[1])
    while True:
        with file.open("a") as lines:
            lines.writelines(f"{time.strftime('%H:%M:%S')} wrong result: {name}\n" for name in wrong(table))
        time.sleep(PAUSE)
