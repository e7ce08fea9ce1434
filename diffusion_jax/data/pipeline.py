"""Batches: the batch of step n is a pure function of (seed, n), on any number of processes and after any resume.

The global batch of step n holds the positions n * batch_size + j of an endless sequence that runs through one
permutation of the set after another. A process takes its rows of that batch. Files are decoded ahead by worker
processes, each of which makes whole batches with the same function, so neither their number nor where a run starts can
change what is seen.
"""

import functools
import os
import queue
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

import numpy as np

from diffusion_jax.data.source import Source

FLIPS = 2**32 - 1
"""Sets the stream of flips apart from the permutations, whose epochs never come near it."""

FOREVER = 2**62
READ_THREADS = 4
MIRRORED_AT_ONCE = 64
ALL = slice(None)

Batch = dict[str, np.ndarray]
T = TypeVar("T")


def batch(source: Source, seed: int, step: int, batch_size: int, flip: bool, rows: slice = ALL) -> Batch:
    """The `rows` of the global batch of a step: {"x0" [B,*D], "label" int32 [B], "index" int32 [B]}.

    Position p = step * batch_size + j of the run is example permutation(seed, p // size)[p % size]. With flip, each
    image is mirrored left to right with probability 1/2. label is -1 where there is none; index is the place j in the
    global batch. Raises ValueError if the arguments do not fit.
    """
    check(source, seed, step, batch_size, flip)
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
    """Mirror the chosen images of x0[B,H,W,C] left to right in place, a few at a time, which stay in the cache."""
    columns = np.arange(x0.shape[2])[::-1]
    for first in range(0, len(chosen), MIRRORED_AT_ONCE):
        few = chosen[first : first + MIRRORED_AT_ONCE]
        x0[few] = np.take(x0[few], columns, axis=2)


def check(source: Source, seed: int, step: int, batch_size: int, flip: bool) -> None:
    """Raise ValueError unless batches can be made with these arguments."""
    for name, value, least in (("seed", seed, 0), ("step", step, 0), ("batch_size", batch_size, 1)):
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}")
    if flip and len(source.shape) != 3:
        raise ValueError(
            f"flip: {source.name} has examples of shape {source.shape}, not images (H, W, C); turn flip off"
        )


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order in which an epoch goes through the examples, int64 [size]; not to be written to."""
    order = np.random.default_rng((seed, epoch)).permutation(size)
    order.flags.writeable = False
    return order


def batches(
    source: Source, seed: int, start: int, batch_size: int, flip: bool, rows: slice = ALL, workers: int = 0
) -> Iterator[Batch]:
    """The batches of steps start, start + 1, … without end, each as `batch` makes it.

    workers: processes that decode files ahead; 0 decodes in threads. Sources in memory need neither. Closing the
    iterator ends the workers. Raises ValueError at once if the arguments do not fit.
    """
    check(source, seed, start, batch_size, flip)
    make = functools.partial(_step, source, seed, batch_size, flip, rows)
    return _ahead(make, start, FOREVER, workers) if source.on_disk else map(make, range(start, FOREVER))


def _step(source: Source, seed: int, batch_size: int, flip: bool, rows: slice, step: int) -> Batch:
    return batch(source, seed, step, batch_size, flip, rows)


def in_order(source: Source, batch_size: int, rows: slice = ALL, workers: int = 0) -> Iterator[Batch]:
    """The whole set once, in order, nothing dropped: batches with "mask" float32 [B], 0 for what pads the last one."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    make = functools.partial(_part, source, batch_size, rows)
    count = -(-source.size // batch_size)
    return _ahead(make, 0, count, workers) if source.on_disk else map(make, range(count))


def pad(batch: Batch, multiple: int) -> Batch:
    """A batch of `in_order` made longer, to a multiple of some number of rows, by rows whose "mask" is 0."""
    missing = -len(batch["mask"]) % multiple
    padded = {name: np.concatenate([rows, rows[:1].repeat(missing, axis=0)]) for name, rows in batch.items()}
    padded["mask"][len(batch["mask"]) :] = 0
    return padded


def _part(source: Source, batch_size: int, rows: slice, part: int) -> Batch:
    index = np.arange(batch_size, dtype=np.int32)[rows]
    places = part * batch_size + index.astype(np.int64)
    x0, label = source.read(np.minimum(places, source.size - 1))
    return {"x0": x0, "label": label, "index": index, "mask": (places < source.size).astype(np.float32)}


def _ahead(make: Callable[[int], Batch], start: int, stop: int, workers: int) -> Iterator[Batch]:
    """make(start), …, make(stop - 1), made ahead in worker processes, or in threads if there are none."""
    import grain
    from absl import flags

    if workers and not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    threads = 1 if workers else READ_THREADS
    made = (
        grain.MapDataset.range(start, stop)
        .map(make)
        .to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads))
        .mp_prefetch(grain.MultiprocessingOptions(num_workers=workers), worker_init_fn=_outlive_signals)
    )
    iterator = iter(made)
    try:
        for shared in iterator:
            own = {name: np.array(value) for name, value in shared.items()}
            del shared  # frees the memory shared with a worker at once, whatever becomes of the batch
            yield own
    finally:
        iterator.close()


def _outlive_signals(worker: int, workers: int) -> None:
    """A worker leaves Ctrl-C and SIGTERM to its parent, which may want to save first, and ends when that is gone."""
    import multiprocessing

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def prefetch(iterator: Iterator[Any], put: Callable[[Any], T], depth: int = 2) -> Generator[T, None, None]:
    """put(x) for every x, made by a background thread up to `depth` ahead; put places a batch on the devices.

    What the thread raises is raised here. When the consumer stops, the thread ends and closes the iterator.
    """
    if depth < 1:
        raise ValueError(f"depth={depth} must be at least 1")
    return _prefetched(iterator, put, depth)


def _prefetched(iterator: Iterator[Any], put: Callable[[Any], T], depth: int) -> Generator[T, None, None]:
    free, stopped = threading.Semaphore(depth), threading.Event()
    ready: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def work() -> None:
        try:
            while free.acquire() and not stopped.is_set():
                try:
                    item = next(iterator)
                except StopIteration:
                    break
                ready.put(("item", put(item)))
            last: tuple[str, Any] = ("end", None)
        except BaseException as error:
            last = ("error", error)
        try:
            getattr(iterator, "close", lambda: None)()
        finally:
            ready.put(last)

    thread = threading.Thread(target=work, daemon=True, name="prefetch")
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
            free.release()
    finally:
        stopped.set()
        free.release()
        thread.join()
