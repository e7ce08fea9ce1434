"""Lossless compression of examples with a trained run, by bits-back coding (likelihood/bits_back.py).

values = compress(run, source, "images.djx")
x, label = decompress(run, "images.djx")
x, label, curves, restored = progressive(run, "images.djx")

A file holds a magic number, a checksum of the rest, the length of a header (4 bytes, little-endian), the header (JSON,
compressed by zlib), and 32-bit words. The decoder must compute the outputs of the network bit for bit, so the header
names everything they depend on.
"""

import collections
import hashlib
import json
import os
import pathlib
import time
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax import devices, files, progress
from diffusion_jax.analysis import vlb
from diffusion_jax.analysis.estimators import dims, needs_gaussian
from diffusion_jax.analysis.heldout import first_examples
from diffusion_jax.data.scaling import to_model
from diffusion_jax.data.source import Source
from diffusion_jax.experiment import objectives, paths, samplers, sources
from diffusion_jax.likelihood import bits_back, variational
from diffusion_jax.objective.bound import decoder_moments
from diffusion_jax.process.base import Array, in_float64, level
from diffusion_jax.runs import stored_samples
from diffusion_jax.runs.trained import Run

MAGIC = b"DJXC"
FORMAT = 2
TILE = 8
"""Examples per device and call."""
GROUP = 64
"""Largest number of examples that are coded together."""
START_SEED = 0
DIGITS = 16
"""Hexadecimal digits of a checksum."""


def compress(run: Run, source: Source, out: str | os.PathLike[str]) -> dict[str, Any]:
    """Compress the examples of a source into the file `out`; return the figures.

    The latents of the first example are drawn with random bits, which the file keeps; those of later examples with bits
    of the code before them, in groups as large as that code allows. The chain has the steps of config.bound.

    net_bits_per_dim: growth of the code. gross_bits_per_dim: size of the file, with header and first bits.
    start_bits_per_dim: those first bits. bound_bits_per_dim: the variational bound of the same examples, of the first
    config.bound.num_examples of them if that is not 0. bytes. images_per_second, without compilation. Raises ValueError
    for a run that is no Gaussian chain over grey levels, ImportError without the package `constriction`.
    """
    chain, reverse, probabilities, *_ = _model(run)
    bits_back.Stack(np.ones(2, np.uint32))  # tells at once that the package is missing
    x, label = source.read(np.arange(source.size))
    label = np.asarray(label, np.int32)
    bounded = first_examples(source, run.config.bound.num_examples or source.size)
    bound = variational.summarise(vlb.bound_terms(run, bounded)[0], dims(run))
    start = np.random.default_rng(START_SEED).integers(1, 2**32, min(GROUP, len(x)) * dims(run) + 64, np.uint32)
    stack = bits_back.Stack(start)
    first = stack.bits
    for function in (lambda z: reverse(1, z, label[:1]), lambda z: probabilities(z, label[:1])):
        function(np.zeros((1, *x.shape[1:]), np.float32))  # compiled before the time is taken
    began = time.perf_counter()
    groups: list[int] = []
    begin, size, lowest, borrowed = 0, 1, len(start), 0.0
    with progress.track("examples", len(x)) as report:
        while begin < len(x):
            rows, labels = x[begin : begin + size], label[begin : begin + size]
            stack.least = before = stack.size
            bits_back.encode(
                stack,
                rows,
                np.asarray(sources.in_range(run.config, rows)),
                chain,
                lambda k, z, labels=labels: reverse(k, z, labels),
                lambda z, labels=labels: probabilities(z, labels),
            )
            groups.append(len(rows))
            begin, lowest = begin + len(rows), min(lowest, stack.least)
            borrowed = max(borrowed, (before - stack.least) / len(rows))  # words that an example takes for its latents
            size = int(np.clip((stack.size - lowest) / borrowed, 1, GROUP))
            report(begin)
    seconds = time.perf_counter() - began
    if lowest < 0:  # cannot happen with 32 bits per dimension, and would make the file useless
        raise RuntimeError("compress: the first bits did not suffice. Please report it")
    words = stack.words()[lowest:]
    header = {
        **_identity(run, chain),
        "step": run.step,
        "ema": run.ema,
        "bound": run.config.bound.to_dict(),
        "groups": groups,
        "dtype": str(x.dtype),
        "labels": label.tolist(),
        "examples_sha256": _digest(x.tobytes()),
    }
    packed = zlib.compress(json.dumps(header, separators=(",", ":")).encode(), 9)
    body = len(packed).to_bytes(4, "little") + packed + words.astype("<u4").tobytes()
    data = MAGIC + _digest(body).encode() + body
    files.save_bytes(out, data)
    total = len(x) * dims(run)
    return {
        "file": str(out),
        "net_bits_per_dim": (stack.bits - first) / total,
        "gross_bits_per_dim": len(data) * 8 / total,
        "bound_bits_per_dim": bound["bits_per_dim"],
        "bound_bits_per_dim_stderr": bound["bits_per_dim_stderr"],
        "bound_examples": bounded.size,
        "start_bits_per_dim": 32 * (len(start) - lowest) / total,
        "bytes": len(data),
        "num_examples": len(x),
        "num_steps": len(chain.scale),
        "images_per_second": len(x) / seconds,
    }


def decompress(run: Run, file: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the examples and labels of a file that `compress` wrote, without loss.

    run: loaded with the step, average and bound of the file, see `read_header`. Raises ValueError for a damaged file,
    or one that another model, device kind, version of JAX, or program wrote.
    """
    model = _model(run)
    header, label, stack = _open(run, file, model)
    found = []
    for _, latents in _groups(run, model, header, label, stack):
        ((_, x),) = collections.deque(latents, maxlen=1)  # the last one is the data
        found.append(x)
    return _joined(file, header, found), label


def progressive(
    run: Run, file: str | os.PathLike[str], count: int = 8
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Decode a file; also return the predicted x0 at `count` levels on the way.

    All levels are returned if there are fewer. Returns the examples, their labels, curves over the levels, most noise
    first, and the predicted x0 [levels,N,*D] in the levels of the data. Curves: t; rate_bits_per_dim, the bits read
    until z_t is known, without those that encode its noise, which come back with the example; rmse of the predicted x0,
    in 255ths of the range. The expectations of rate and mean squared error are the rate–distortion curve of the bound.
    Raises as `decompress` does. Reference: Ho et al. 2020, algorithms 3 and 4.
    """
    if count < 1:
        raise ValueError(f"progressive: count must be at least 1, got {count}")
    model, back = _model(run), sources.make_from_model(run.config)
    size = len(model.chain.scale)
    chosen = np.unique(np.linspace(1, size, count).round().astype(int))[::-1]
    nats, square = np.zeros(len(chosen)), np.zeros(len(chosen))
    header, label, stack = _open(run, file, model)
    found, restored = [], []
    for labels, latents in _groups(run, model, header, label, stack):
        full = stack.exact_bits
        states = {k: (stack.exact_bits, z) for k, z in latents if k == 0 or k in chosen}
        found.append(states[0][1])
        x0, shown = np.asarray(sources.in_range(run.config, found[-1])).astype(np.float64), []
        for i, k in enumerate(chosen):
            left, z = states[k]
            alpha, sigma = (np.exp(part[size - k]) for part in (model.at.log_alpha, model.at.log_sigma))
            noise = np.square((z - alpha * x0) / sigma) / 2 + np.log(sigma * np.sqrt(2 * np.pi))  # -log q(z | x0)
            nats[i] += (full - left) * np.log(2) - (noise - np.log(model.chain.spacing[k - 1])).sum()
            predicted = np.asarray(model.predict_x0(k, z, labels))
            square[i] += np.square(predicted - x0).sum()
            shown.append(np.asarray(back(predicted)))
        restored.append(np.stack(shown))
    x = _joined(file, header, found)
    curves = {
        "t": np.asarray(model.at.t)[size - chosen],
        "rate_bits_per_dim": variational.to_bits(nats, x.size),
        "rmse": variational.rmse((square / x.size)[None]),
    }
    return x, label, curves, np.concatenate(restored[::-1], axis=1)


def _open(
    run: Run, file: str | os.PathLike[str], model: "_Model"
) -> tuple[dict[str, Any], np.ndarray, bits_back.Stack]:
    """Return header, labels and code of a file. Raises ValueError unless the model wrote it."""
    header, words = _read(file)
    for key, value in _identity(run, model.chain).items():
        if header.get(key) != value:
            remedy = "Decode with the run and on the kind of machine that wrote it"
            if key == "threads":
                remedy = f"Set the environment variable PJRT_NPROC={header.get(key)} before JAX starts"
            raise ValueError(f"{file}: {key} is {header.get(key)!r} in the file, but {value!r} here. {remedy}")
    return header, np.asarray(header["labels"], np.int32), bits_back.Stack(words)


def _groups(
    run: Run, model: "_Model", header: dict[str, Any], label: np.ndarray, stack: bits_back.Stack
) -> Iterator[tuple[np.ndarray, Iterator[tuple[int, np.ndarray]]]]:
    """Yield labels and latents (`bits_back.decode`) of each group, the last group first.

    Exhaust the latents of a group before you ask for the next: all groups share the stack.
    """
    end = len(label)
    with progress.track("examples", end) as report:
        for size in reversed(header["groups"]):
            labels = label[end - size : end]
            yield (
                labels,
                bits_back.decode(
                    stack,
                    (len(labels), *header["shape"]),
                    lambda x: np.asarray(sources.in_range(run.config, x)),
                    model.chain,
                    lambda k, z, labels=labels: model.reverse(k, z, labels),
                    lambda z, labels=labels: model.probabilities(z, labels),
                ),
            )
            end -= size
            report(len(label) - end)


def _joined(file: str | os.PathLike[str], header: dict[str, Any], found: list[np.ndarray]) -> np.ndarray:
    """Join the examples of groups. Raises ValueError if they are not those of the file.

    found: those of each group, the last group first.
    """
    x = np.concatenate(found[::-1]).astype(header["dtype"])
    if _digest(x.tobytes()) != header["examples_sha256"]:
        raise ValueError(
            f"{file}: the decoded examples differ from the encoded ones (checksum). The network's outputs are not the "
            "same bits on this machine; decode on the machine that wrote the file"
        )
    return x


def read_header(file: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the header of a compressed file. Raises ValueError for another or a damaged file."""
    return _read(file)[0]


def _read(file: str | os.PathLike[str]) -> tuple[dict[str, Any], np.ndarray]:
    """Return the header and the words. Raises ValueError."""
    data = pathlib.Path(file).read_bytes()
    start = len(MAGIC) + DIGITS
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError(f"{file}: was not written by `main compress`. Choose a file that was")
    if data[len(MAGIC) : start] != _digest(data[start:]).encode():
        raise ValueError(f"{file}: is truncated or damaged (checksum). Copy it again")
    begin = start + 4
    end = begin + int.from_bytes(data[start:begin], "little")
    packed = data[begin:end]  # format 1 has the JSON as it is
    header: dict[str, Any] = json.loads(packed if packed.startswith(b"{") else zlib.decompress(packed))
    if header["format"] != FORMAT:
        raise ValueError(f"{file}: has format {header['format']}, but this version reads {FORMAT}. Use another version")
    return header, np.frombuffer(data[end:], "<u4").astype(np.uint32)


def check(run: Run) -> None:
    """Raise ValueError unless a run has a Gaussian process and data of grey levels."""
    needs_gaussian("compress", run)
    if not run.config.data.levels:
        raise ValueError("compress: needs data of grey levels (got data.levels=0)")
    objectives.decoder(run.config)


class _Model(NamedTuple):
    """The model of a run, with functions of batches and their labels."""

    chain: bits_back.Chain
    reverse: Any
    """p(z_k | z_(k+1))."""
    probabilities: Any
    """p(x0 | z_1)."""
    predict_x0: Any
    """Predicted x0, from (k, z_k, labels)."""
    at: Any
    """The levels of the latents, z_N first, fields [N]."""


def _model(run: Run) -> _Model:
    check(run)
    config, experiment = run.config, run.experiment
    rows = paths.chain_coefficients(config, experiment.process, experiment.schedule, config.bound.num_steps)(None)
    size = len(rows.at.t)
    predict = samplers.in_bound(config, experiment.predict)
    decoder = objectives.decoder(config)
    grid = to_model(np.arange(config.data.levels), config.data.levels)
    with np.errstate(divide="ignore"):
        into = [np.exp(-rows.log_alpha_ratio[:-1]), np.exp(0.5 * rows.log_var_large[:-1])]  # q(z_t | z_s), falling
        scale = np.append(into[0], np.exp(rows.at.log_alpha[-1]))[::-1]
        std = np.append(into[1], np.exp(rows.at.log_sigma[-1]))[::-1]
        narrow = np.exp(0.5 * rows.log_var_small[:-1])[::-1]
    end = in_float64(level, experiment.schedule(None), np.ones(1))
    chain = bits_back.Chain(
        np.asarray(scale, np.float64),
        np.asarray(std, np.float64),
        bits_back.grid_spacing(std, narrow),
        float(np.hypot(np.exp(end.log_alpha[0]), np.exp(end.log_sigma[0]))),
    )

    def kernel(params: Any, step: Any, z: Array, label: Array) -> tuple[Any, Array, Array]:
        step = jax.tree.map(lambda field: jnp.broadcast_to(field, (len(z),)), step)
        mean, log_var = experiment.reverse(step, predict(params, z, step.at, label, None), z)
        return step, mean, jnp.broadcast_to(log_var, z.shape)

    def moments(params: Any, step: Any, z: Array, label: Array) -> tuple[Array, Array]:
        _, mean, log_var = kernel(params, step, z, label)
        return mean, jnp.exp(0.5 * log_var)

    def levels(params: Any, step: Any, z: Array, label: Array) -> Array:
        step, mean, log_var = kernel(params, step, z, label)
        mean, log_var = decoder_moments(step.at, (mean, log_var), z)
        nats = jax.vmap(lambda value: decoder(jnp.full_like(z, value), mean, log_var), out_axes=-1)(grid)
        return jax.nn.softmax(-nats, axis=-1)

    def x0_of(params: Any, step: Any, z: Array, label: Array) -> Array:
        at = jax.tree.map(lambda field: jnp.broadcast_to(field, (len(z),)), step.at)
        return predict(params, z, at, label, None).x0

    reverse = devices.TiledMap(moments, TILE, replicated=2, same_bits=True)
    predicted = devices.TiledMap(x0_of, TILE, replicated=2, same_bits=True)
    probabilities = devices.TiledMap(levels, TILE, replicated=2, same_bits=True)

    def row(i: int) -> Any:
        return jax.tree.map(lambda field: np.float32(field[i]), rows)

    return _Model(
        chain,
        lambda k, z, label: reverse(run.params, row(size - k - 1), np.asarray(z, np.float32), label),
        lambda z, label: probabilities(run.params, row(size - 1), np.asarray(z, np.float32), label),
        lambda k, z, label: predicted(run.params, row(size - k), np.asarray(z, np.float32), label),
        rows.at,
    )


def _identity(run: Run, chain: bits_back.Chain) -> dict[str, Any]:
    """Return the properties that encoder and decoder must share."""
    return {
        "format": FORMAT,
        "model_sha256": stored_samples.weights_hash(run.params),
        "shape": list(run.config.data.shape),
        "levels": run.config.data.levels,
        "num_steps": len(chain.scale),
        "chain_sha256": _digest(b"".join(np.asarray(part, np.float64).tobytes() for part in chain)),
        "tile": TILE,
        "device_kind": jax.devices()[0].device_kind,
        "threads": devices.threads(),
        "jax": jax.__version__,
    }


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGITS]
