"""Progressive generation, lossy decoding, shared latents and interpolation.

The functions take the grid of a sampler in parts of equal length, so that one program is compiled, and return x0 in the
range of the model. Reference: Ho et al. 2020, figures 4, 6, 7 and 8.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.process.base import Array, Process, normal
from diffusion_jax.sampling.loop import Sampler

State = tuple[Array, Any]
"""(x [B,*D], carry of the sampler)."""
Walk = Callable[[State, Array, int], State]
"""`walk(state, keys[B], part) -> state`, one part further."""


def parts(rows: Any, number: int) -> list[Any]:
    """Split step coefficients [N] into at most `number` consecutive parts of nearly equal length."""
    size = len(rows.at.t)
    cuts = np.linspace(0, size, min(number, size) + 1).round().astype(int)
    return [jax.tree.map(lambda field, a=a, b=b: field[a:b], rows) for a, b in itertools.pairwise(cuts)]


def generation(sampler: Sampler, params: Any, seeds: ArrayLike, number: int = 10) -> np.ndarray:
    """Return x0 predicted at the start of each part, and the samples.

    The samples are at the end: [parts + 1, B, *D].

    Reference: Ho et al. 2020, figure 6.
    """
    seeds = jnp.asarray(seeds, jnp.uint32)
    walk, guess, chunks = _compiled(sampler, params, number, sampler.labels(seeds))
    x, keys = sampler.start(params, seeds)
    state = x, sampler.init_carry(x)
    shown = []
    for part in range(len(chunks)):
        shown.append(guess(state[0], part))
        state = walk(state, keys, part)
    return np.stack([*map(np.asarray, shown), np.asarray(state[0])])


def decoding(
    sampler: Sampler, process: Process, params: Any, x0: Array, label: Array | None, seed: int, number: int = 10
) -> np.ndarray:
    """Return progressive decodings of x0 [B,*D], with labels [B], after each part, and x0: [parts + 1, B, *D].

    At every level this is x0 predicted from x_t ~ q(x_t | x0), with the same noise at all levels. Reference: Ho et al.
    2020, section 4.3.
    """
    _, guess, chunks = _compiled(sampler, params, number, label)
    noise = normal(jax.random.split(jax.random.key(seed), len(x0)), x0.shape[1:], x0.dtype)
    shown = [np.asarray(guess(process.corrupt(_first(chunk).at, x0, noise), i)) for i, chunk in enumerate(chunks)]
    return np.stack([*shown, np.asarray(x0)])


def sharing(sampler: Sampler, params: Any, seed: int, copies: int, number: int = 10) -> np.ndarray:
    """Return samples that share x_t, for t at the start of each part: [parts, copies, *D].

    The shared x_t follow from `seed`; from there the copies have keys of their own. Reference: Ho et al.
    2020, figure 7.
    """
    seeds = jnp.full(copies, seed, jnp.uint32)
    walk, _, chunks = _compiled(sampler, params, number, sampler.labels(seeds))
    x, keys = sampler.start(params, seeds)
    own = jax.vmap(jax.random.fold_in)(keys, jnp.arange(copies))
    state = x, sampler.init_carry(x)
    shown = []
    for part in range(len(chunks)):
        apart = state
        for further in range(part, len(chunks)):
            apart = walk(apart, own, further)
        shown.append(np.asarray(apart[0]))
        state = walk(state, keys, part)
    return np.stack(shown)


def interpolation(
    sampler: Sampler,
    process: Process,
    params: Any,
    ends: Array,
    labels: Array,
    seed: int,
    points: int,
    number: int = 4,
) -> np.ndarray:
    """Interpolate between x0 of two examples, ends [2,*D], with labels [2].

    Both are corrupted to level t and mixed, and sampling starts from there, with the label of the nearer end.

    x_t = (1 - share) x_t[0] + share x_t[1], `points` shares from 0 to 1, the same noise for all. Of bits and levels,
    which have no values between, each dimension is taken from either end, with these shares. Returns [1 + parts,
    points, *D]: the mixtures of x0, then those at the start of each part, the lowest level first. Reference: Ho et al.
    2020, figure 8.
    """
    label = jnp.where(jnp.linspace(0, 1, points) < 0.5, labels[0], labels[1])
    walk, _, chunks = _compiled(sampler, params, number, label)
    key_noise, key = jax.random.split(jax.random.key(seed))
    noise = normal(jax.random.split(key_noise, 2), ends.shape[1:], ends.dtype)
    share = jnp.linspace(0, 1, points, dtype=ends.dtype).reshape(-1, *[1] * (ends.ndim - 1))
    keys = jnp.broadcast_to(key, (points,))

    ranks = jax.random.uniform(jax.random.fold_in(key_noise, 2), ends.shape[1:], ends.dtype)

    def mixed(x: Array) -> Array:
        if not process.gaussian:
            return jnp.where(ranks < share, x[1:], x[:1])
        return (1 - share) * x[:1] + share * x[1:]

    shown = [np.asarray(mixed(ends))]
    for part in reversed(range(len(chunks))):
        x = mixed(process.corrupt(_first(chunks[part]).at, ends, noise))
        state = x, sampler.init_carry(x)
        for further in range(part, len(chunks)):
            state = walk(state, keys, further)
        shown.append(np.asarray(state[0]))
    return np.stack(shown)


def _first(chunk: Any) -> Any:
    """Return the coefficients of the first step of a part."""
    return jax.tree.map(lambda field: jnp.asarray(field[0], jnp.float32), chunk)


def _compiled(
    sampler: Sampler, params: Any, number: int, label: Array | None
) -> tuple[Walk, Callable[[Array, int], Array], list[Any]]:
    """Return (walk over a part, x0 predicted at the start of a part, the parts)."""
    chunks = parts(sampler.coefficients(params), number)
    firsts = np.cumsum([0, *(len(chunk.at.t) for chunk in chunks)])
    walk, guess = jax.jit(sampler.walk), jax.jit(sampler.predict_x0)
    return (
        lambda state, keys, part: walk(params, *state, keys, chunks[part], int(firsts[part]), label),
        lambda x, part: guess(params, x, _first(chunks[part]).at, label),
        chunks,
    )
