"""Functions mapped over any number of examples, in tiles of fixed size."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from diffusion_jax import progress
from diffusion_jax.devices import sharding


class TiledMap:
    """A function of examples, mapped over any number of them.

    Every device works on `tile` examples per call; the last call is padded with examples of the same call. So one
    program is compiled, and results do not depend on the number of examples, their order or the devices, provided that
    each row of `function` depends on its own example alone.
    """

    def __init__(
        self, function: Callable[..., Any], tile: int, replicated: int = 1, name: str = "", same_bits: bool = False
    ) -> None:
        """Map `function(*replicated, *examples) -> tree of [B, …]`.

        replicated: the number of leading arguments that are the same for every example, such as parameters. name: the
        name of the progress that is shown; "": none. same_bits: without `compiler_options`, which differ between one
        CPU device and several, so that results are the same in every bit.
        """
        self.mapped = sharding.map_over_devices(function, replicated, same_bits=same_bits)
        self.tile, self.replicated, self.name = tile, replicated, name

    def __call__(self, *arguments: Any) -> Any:
        """Return the results, a tree of host arrays [N, …], for trees of examples [N, …]."""
        common, examples = arguments[: self.replicated], arguments[self.replicated :]
        parts = list(self.stream(common, [examples], count_rows(examples)))
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)

    def stream(self, common: tuple[Any, ...], batches: Iterable[tuple[Any, ...]], total: int) -> Iterator[Any]:
        """Yield the results per call, for `total` examples in batches of any size.

        common: the leading arguments. Each batch is the tuple of the other arguments.
        """
        size = self.tile * jax.device_count()
        with progress.track(self.name, total) if self.name and total > size else progress.nothing() as report:
            done = 0
            for rows in rebatch(batches, size):
                count = count_rows(rows)
                padded = jax.tree.map(lambda x, count=count: x[np.arange(size) % count], rows)
                results = sharding.fetch(self.mapped(*common, *sharding.put_rows(padded)))
                done += count
                report(done)
                yield jax.tree.map(lambda x, count=count: x[:count], results)


def rebatch(batches: Iterable[Any], size: int) -> Iterator[Any]:
    """Regroup batches of any size B into batches of `size` rows.

    A batch is a tree of arrays [B, …]. The last batch may be shorter.
    """
    waiting: list[Any] = []
    missing = size
    for batch in batches:
        rows, first = count_rows(batch), 0
        while first < rows:
            part = jax.tree.map(lambda x, begin=first, end=first + missing: np.asarray(x[begin:end]), batch)
            waiting.append(part)
            first += missing
            missing -= count_rows(part)
            if not missing:
                yield _joined(waiting)
                waiting, missing = [], size
    if waiting:
        yield _joined(waiting)


def _joined(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def count_rows(tree: Any) -> int:
    """Return the length of the first axis of a tree's arrays."""
    return len(jax.tree.leaves(tree)[0])
