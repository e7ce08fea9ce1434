"""Batches as a pure function of (seed, step).

The global batch of step n has the positions n * batch_size + j of an endless sequence of permutations of the examples,
for any number of processes and after any resume. Each process takes its rows of that batch. Worker processes decode
files ahead with the same function, so neither their number nor the first step changes a batch.

The entry "index", the place of an example in the global batch, identifies its random numbers in the train step.
"""

import collections
import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

import numpy as np

from diffusion_jax.data.coupling import Coupling
from diffusion_jax.data.source import Source

FLIPS = 2**32 - 1
COUPLED = 2**32 - 2
"""Second words of the seeds of flips and of coupled noise; permutations have the epoch there."""

FOREVER = 2**62
READ_THREADS = 4
MIRRORED_AT_ONCE = 64
ALL = slice(None)

Batch = dict[str, np.ndarray]
T = TypeVar("T")


def batch(
    source: Source,
    seed: int,
    step: int,
    batch_size: int,
    flip: bool,
    rows: slice = ALL,
    couple: Coupling | None = None,
) -> Batch:
    """Return the `rows` of the global batch of a step.

    The batch is {"x0": [B,*D], "label": int32 [B], "index": int32 [B]}. Position p = step * batch_size + j of the run
    is example permutation(seed, p // size)[p % size]. flip: mirror each image left to right with probability 1/2. label
    is -1 for unlabelled examples; index is the place j in the global batch. couple: add "noise", float32 [B,*D], in the
    order that it gives to the noise of the global batch, of which all examples are read. Raises ValueError.
    """
    check(source, seed, step, batch_size, flip)
    if couple is not None:
        whole = batch(source, seed, step, batch_size, flip)
        noise = np.random.default_rng((seed, COUPLED, step)).standard_normal(whole["x0"].shape, np.float32)
        return {name: of[rows] for name, of in (whole | {"noise": couple(whole["x0"], noise)}).items()}
    index = np.arange(batch_size, dtype=np.int32)[rows]
    epochs, places = np.divmod(step * batch_size + index.astype(np.int64), source.size)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        places[here] = permutation(seed, int(epoch), source.size)[places[here]]
    x0, label = source.read(places)
    if flip:
        mirrored = np.random.default_rng((seed, FLIPS, step)).random(batch_size)[rows] < 0.5
        _mirror(x0, np.flatnonzero(mirrored))
    return {"x0": x0, "label": label, "index": index}


def _mirror(x0: np.ndarray, chosen: np.ndarray) -> None:
    """Mirror the chosen images of x0 [B,H,W,C] in place, left to right.

    A few at a time, so that they stay in the CPU cache.
    """
    columns = np.arange(x0.shape[2])[::-1]
    for first in range(0, len(chosen), MIRRORED_AT_ONCE):
        few = chosen[first : first + MIRRORED_AT_ONCE]
        x0[few] = np.take(x0[few], columns, axis=2)


def check(source: Source, seed: int, step: int, batch_size: int, flip: bool) -> None:
    """Check the arguments of `batch`. Raises ValueError."""
    for name, value, least in (("seed", seed, 0), ("step", step, 0), ("batch_size", batch_size, 1)):
        if value < least:
            raise ValueError(f"{name}={value}: must be at least {least}")
    if flip and len(source.shape) != 3:
        raise ValueError(
            f"data.flip=True: {source.name} has examples of shape {source.shape}, not images (H, W, C). Use False"
        )


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """Return the order of the examples in an epoch, int64 [size], read-only."""
    order = np.random.default_rng((seed, epoch)).permutation(size)
    order.flags.writeable = False
    return order


def batches(
    source: Source,
    seed: int,
    start: int,
    batch_size: int,
    flip: bool,
    rows: slice = ALL,
    workers: int = 0,
    couple: Coupling | None = None,
) -> Iterator[Batch]:
    """Return an endless iterator over the batches of steps start, start + 1, …

    workers: processes that decode files ahead; 0: threads. Sources in memory use neither. Closing the iterator ends the
    workers. couple: see `batch`. Raises ValueError at once.
    """
    check(source, seed, start, batch_size, flip)
    make = functools.partial(batch, source, seed, batch_size=batch_size, flip=flip, rows=rows, couple=couple)
    return _ahead(make, start, FOREVER, workers) if source.on_disk else map(make, range(start, FOREVER))


def in_order(source: Source, batch_size: int, rows: slice = ALL, workers: int = 0) -> Iterator[Batch]:
    """Iterate once over a whole source in order, with the last batch padded.

    Batches have an entry "mask", float32 [B], which is 0 for padding. Raises ValueError.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: must be at least 1")
    make = functools.partial(_part, source, batch_size, rows)
    count = -(-source.size // batch_size)
    return _ahead(make, 0, count, workers) if source.on_disk else map(make, range(count))


def pad(batch: Batch, multiple: int) -> Batch:
    """Pad a batch of `in_order` to a multiple of rows; the "mask" of padding is 0."""
    missing = -len(batch["mask"]) % multiple
    padded = {name: np.concatenate([rows, rows[:1].repeat(missing, axis=0)]) for name, rows in batch.items()}
    padded["mask"][len(batch["mask"]) :] = 0
    return padded


def _part(source: Source, batch_size: int, rows: slice, part: int) -> Batch:
    index = np.arange(batch_size, dtype=np.int32)[rows]
    places = part * batch_size + index.astype(np.int64)
    x0, label = source.read(np.minimum(places, source.size - 1))
    return {"x0": x0, "label": label, "index": index, "mask": (places < source.size).astype(np.float32)}


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Signals at which a training saves and ends, which its worker processes leave to it."""


def _ahead(make: Callable[[int], Batch], start: int, stop: int, workers: int) -> Iterator[Batch]:
    """Iterate over make(start), …, make(stop - 1), computed ahead in worker processes or threads."""
    spawn = multiprocessing.get_context("spawn")  # JAX has threads, which a forked process would lack
    pool: concurrent.futures.Executor
    if workers:
        with _blocked():
            pool = concurrent.futures.ProcessPoolExecutor(workers, spawn, _start_worker, (make,))
        make = _make_in_worker
    else:
        pool = concurrent.futures.ThreadPoolExecutor(READ_THREADS)
    ahead: collections.deque[concurrent.futures.Future[Batch]] = collections.deque()
    try:
        for step in range(start, stop):
            with _blocked() if workers else contextlib.nullcontext():
                ahead.append(pool.submit(make, step))
            if len(ahead) > 2 * (workers or READ_THREADS):
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


_make: Callable[[int], Batch]
"""In a worker process: the function that makes a batch, sent once."""


def _make_in_worker(step: int) -> Batch:
    return _make(step)


@contextlib.contextmanager
def _blocked() -> Iterator[None]:
    """Hold SIGNALS back in this thread.

    A process started meanwhile must not be ended by them before it ignores them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(make: Callable[[int], Batch]) -> None:
    """Take the function of a worker process, ignore SIGNALS, and end with the parent.

    A terminal or a cluster sends them to every process of a training, and the parent may have to save before it ends.
    """
    global _make
    _make = make
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def prefetch(iterator: Iterator[Any], put: Callable[[Any], T], depth: int = 2) -> Generator[T, None, None]:
    """Iterate over put(x), computed by a background thread, with `depth` items in memory.

    put places a batch on the devices. Exceptions of the thread are raised here. When the consumer stops, the thread
    ends, and the iterator is closed.
    """
    end: Any = object()

    def step() -> T:
        item = next(iterator, end)
        return end if item is end else put(item)

    thread = concurrent.futures.ThreadPoolExecutor(1, "prefetch")
    try:
        ahead = collections.deque(thread.submit(step) for _ in range(depth))
        while (item := ahead.popleft().result()) is not end:
            yield item
            ahead.append(thread.submit(step))
    finally:
        thread.shutdown(cancel_futures=True)
        getattr(iterator, "close", lambda: None)()
