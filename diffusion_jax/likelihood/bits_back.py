"""Bits-back coding of images with a diffusion model and an asymmetric numeral system (ANS).

An ANS is a stack of bits. A symbol pushed under a distribution p adds -log2 p(symbol) bits; a symbol popped under q
is a draw from q, which takes -log2 q(symbol) bits off. Of an example x0 with latents z_1 (least noise) … z_N (prior),

    pop z_1 ~ q(z_1 | x0),  push x0 under p(x0 | z_1),
    for k = 1 … N - 1:  pop z_(k+1) ~ q(z_(k+1) | z_k),  push z_k under p(z_k | z_(k+1)),
    push z_N under the prior,

so that the mean length is the variational bound. Decoding runs the same steps backwards. Latents lie on a grid per
level. The network is evaluated on the grid points, so that a decoder computes the same distributions bit for bit as
long as it runs the same program on the same kind of device.

Reference: Townsend et al. 2019 (bits back with ANS), Kingma et al. 2019 (Bit-Swap, the order of the steps).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

GRID_POINTS_PER_STD = 5
"""Grid points per standard deviation of the narrower of the two distributions that code a latent."""
Q_RANGE, P_RANGE = 8, 10
"""Standard deviations on either side that the coder of a latent reaches. Values beyond P_RANGE are escaped; values of q
are popped, and so never lie beyond Q_RANGE."""
ESCAPE_BITS = 16


class ReverseMoments(Protocol):
    """Reverse kernel p(z_k | z_(k+1)) of a batch."""

    def __call__(self, k: int, z: np.ndarray, /) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation [B,*D] of z_k, 1 <= k < N, given z = z_(k+1) [B,*D]."""


class DataProbabilities(Protocol):
    """Decoder p(x0 | z_1) of a batch."""

    def __call__(self, z: np.ndarray, /) -> np.ndarray:
        """Return the probabilities [B,*D,levels] of the grey levels, given z = z_1 [B,*D]."""


class Chain(NamedTuple):
    """The chain of latents, in the order of encoding: index k - 1 is for z_k."""

    scale: np.ndarray
    """[N]: q(z_(k+1) | z_k) has the mean scale[k] z_k, q(z_1 | x0) the mean scale[0] x0."""
    std: np.ndarray
    """[N]: standard deviations of the same distributions."""
    spacing: np.ndarray
    """[N]: distance of the grid points of z_1 … z_N."""
    prior_std: float
    """Standard deviation of p(z_N), whose mean is 0."""


class Stack:
    """Stack of bits: symbols are pushed and popped under distributions."""

    def __init__(self, words: np.ndarray) -> None:
        """Start with 32-bit words [W], the last on top. Raises ValueError without the package `constriction`."""
        try:
            import constriction
        except ImportError as error:
            raise ValueError("compress: needs the package constriction: pip install 'diffusion_jax[codec]'") from error
        self._models = constriction.stream.model
        self._coder = constriction.stream.stack.AnsCoder(np.asarray(words, np.uint32))
        self.least = len(words)
        """Words that no pop has reached since this was last set, at the bottom of the stack."""

    def words(self) -> np.ndarray:
        """Return the content [W], uint32."""
        return self._coder.get_compressed()

    @property
    def size(self) -> int:
        """Number of words."""
        return int(self._coder.num_words())

    @property
    def bits(self) -> int:
        """Size of the content, in whole words."""
        return int(self._coder.num_bits())

    @property
    def exact_bits(self) -> int:
        """Size of the content without the unused bits of the last word."""
        return int(self._coder.num_valid_bits())

    def _pop(self, *arguments: Any) -> np.ndarray:
        symbols: np.ndarray = self._coder.decode(*arguments)
        self.least = min(self.least, self.size - 2)  # the top two words are the coder's state
        return symbols

    def push_levels(self, symbols: np.ndarray, probabilities: np.ndarray) -> None:
        """Push grey levels, integers [S], under probabilities [S,levels]."""
        model = self._models.Categorical(perfect=False)
        self._coder.encode_reverse(symbols.astype(np.int32), model, np.ascontiguousarray(probabilities, np.float32))

    def pop_levels(self, probabilities: np.ndarray) -> np.ndarray:
        """Pop what `push_levels` pushed."""
        model = self._models.Categorical(perfect=False)
        return self._pop(model, np.ascontiguousarray(probabilities, np.float32))

    def draw(self, mean: np.ndarray, std: float) -> np.ndarray:
        """Pop integers [S] of N(mean[S], std²), in units of the grid. The inverse is `give_back`."""
        centre, model, moments = self._narrow(mean, np.full(mean.shape, std), Q_RANGE)
        return centre + self._pop(model, *moments)

    def give_back(self, symbols: np.ndarray, mean: np.ndarray, std: float) -> None:
        """Push what `draw` popped."""
        centre, model, moments = self._narrow(mean, np.full(mean.shape, std), Q_RANGE)
        self._coder.encode_reverse((symbols - centre).astype(np.int32), model, *moments)

    def push(self, symbols: np.ndarray, mean: np.ndarray, std: np.ndarray) -> None:
        """Push any integers [S] under N(mean[S], std[S]²), in units of the grid."""
        centre, model, moments = self._narrow(mean, std, P_RANGE)
        residual, edge = symbols - centre, self._edge(std, P_RANGE)
        outside = np.abs(residual) >= edge
        if outside.any():
            beyond = np.abs(residual[outside]) - edge
            uniform = self._models.Uniform(2**ESCAPE_BITS)
            for shift in (2 * ESCAPE_BITS, ESCAPE_BITS, 0):
                self._coder.encode_reverse(((beyond >> shift) % 2**ESCAPE_BITS).astype(np.int32), uniform)
        self._coder.encode_reverse(np.clip(residual, -edge, edge).astype(np.int32), model, *moments)

    def pop(self, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
        """Pop what `push` pushed."""
        centre, model, moments = self._narrow(mean, std, P_RANGE)
        residual, edge = self._pop(model, *moments).astype(np.int64), self._edge(std, P_RANGE)
        outside = np.abs(residual) >= edge
        if outside.any():
            beyond, uniform = np.zeros(int(outside.sum()), np.int64), self._models.Uniform(2**ESCAPE_BITS)
            for shift in (0, ESCAPE_BITS, 2 * ESCAPE_BITS):
                beyond += self._pop(uniform, len(beyond)).astype(np.int64) << shift
            residual[outside] += np.sign(residual[outside]) * beyond
        return centre + residual

    def _narrow(self, mean: np.ndarray, std: np.ndarray, reach: int) -> tuple[np.ndarray, Any, tuple[Any, Any]]:
        """The rounded mean, and the model of the difference in a small range.

        Every symbol of a range has at least 2^-24 of the mass, so that a large range would draw many outliers.
        """
        centre, edge = np.rint(mean), self._edge(std, reach)
        model = self._models.QuantizedGaussian(-edge, edge)
        return centre.astype(np.int64), model, (mean - centre, np.ascontiguousarray(std, np.float64))

    @staticmethod
    def _edge(std: np.ndarray, reach: int) -> int:
        return int(np.ceil(reach * std.max())) + 1


def encode(
    stack: Stack,
    x: np.ndarray,
    x0: np.ndarray,
    chain: Chain,
    reverse: ReverseMoments,
    probabilities: DataProbabilities,
) -> None:
    """Push a batch of examples.

    Args:
        stack: with enough bits for the first latents.
        x: grey levels, integers [B,*D].
        x0: the same in the model's range [B,*D].
        chain: the chain of latents.
        reverse: the reverse kernel.
        probabilities: the decoder.
    """
    last, shape = len(chain.scale) - 1, x.shape
    mean, latents = chain.scale[0] * np.asarray(x0, np.float64), np.zeros(x.size, np.int64)
    for k, spacing in enumerate(chain.spacing):
        drawn = stack.draw(mean.ravel() / spacing, chain.std[k] / spacing)
        z = (drawn * spacing).reshape(shape)
        if k == 0:
            found = probabilities(z)
            stack.push_levels(x.ravel(), found.reshape(x.size, -1))
        else:
            below = chain.spacing[k - 1]
            stack.push(latents, *(moment.ravel() / below for moment in _float64(reverse(k, z))))
        latents = drawn
        if k < last:
            mean = chain.scale[k + 1] * z
    wide = np.full(x.size, chain.prior_std / chain.spacing[last])
    stack.push(latents, np.zeros(x.size), wide)


def decode(
    stack: Stack,
    shape: tuple[int, ...],
    x0_of: Any,
    chain: Chain,
    reverse: ReverseMoments,
    probabilities: DataProbabilities,
) -> Iterator[tuple[int, np.ndarray]]:
    """Pop a batch that `encode` pushed: yield (k, z_k) for k = N … 1, then (0, x), grey levels [B,*D], int32.

    When z_k is yielded, the bits from which z_(k+1) was drawn are back on the stack.

    Args:
        stack: as `encode` left it; after the last item as `encode` found it.
        shape: [B,*D].
        x0_of: the function from grey levels [B,*D] to the model's range.
        chain, reverse, probabilities: as for `encode`.
    """
    last, size = len(chain.scale) - 1, int(np.prod(shape))
    latents = stack.pop(np.zeros(size), np.full(size, chain.prior_std / chain.spacing[last]))
    yield last + 1, (latents * chain.spacing[last]).reshape(shape)
    for k in range(last, 0, -1):
        spacing, below = chain.spacing[k], chain.spacing[k - 1]
        z = (latents * spacing).reshape(shape)
        found = stack.pop(*(moment.ravel() / below for moment in _float64(reverse(k, z))))
        mean = chain.scale[k] * (found * below)
        stack.give_back(latents, mean / spacing, chain.std[k] / spacing)
        latents = found
        yield k, (latents * below).reshape(shape)
    z = (latents * chain.spacing[0]).reshape(shape)
    x = stack.pop_levels(probabilities(z).reshape(size, -1)).reshape(shape)
    mean = chain.scale[0] * np.asarray(x0_of(x), np.float64)
    stack.give_back(latents, mean.ravel() / chain.spacing[0], chain.std[0] / chain.spacing[0])
    yield 0, x


def grid_spacing(std: np.ndarray, reverse_std: np.ndarray) -> np.ndarray:
    """Return the spacing of the grids [N].

    std: of q into z_1 … z_N, [N]. reverse_std: least standard deviation of p(z_k | z_(k+1)), k = 1 … N - 1, [N-1].
    """
    narrower = np.minimum(std, np.append(reverse_std, np.inf))
    return narrower / GRID_POINTS_PER_STD


def _float64(moments: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(moments[0], np.float64), np.asarray(moments[1], np.float64)
