"""Facts that a choice declares about itself, beside its function.

    @declare(chain=True, gaussian=True)
    def my_target(num_steps: int): ...

The experiment reads these facts instead of names, so a function of yours, `module:function`, is treated as a built-in
one. A choice without a declaration has the defaults of `Facts`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Choice = TypeVar("Choice")


@dataclasses.dataclass(frozen=True)
class Facts:
    """Needs and properties of a choice. Each fact names the kinds of choices that it belongs to."""

    gaussian: bool = False
    """Loss, target, variance: needs the noise of a Gaussian process."""
    chain: bool = False
    """Loss: needs a chain. Target: is defined at the levels of a chain alone."""
    continuous: bool = False
    """Loss: needs continuous time, with all t in [0, 1] drawn alike."""
    trains_variance: bool = False
    """Loss: trains a learned variance."""
    trains_schedule: bool = False
    """Loss: trains a learned schedule."""
    classifier: bool = False
    """Loss: trains a classifier. Network: returns logits [B,classes], and so cannot be a denoiser."""
    autoencoder: bool = False
    """Loss: trains an encoder and a decoder. Network: has `encode` and `decode`, and so cannot be a denoiser."""
    adversarial: bool = False
    """Loss: trains a generator against a discriminator. Network: has `generate` and `discriminate`."""
    mean_velocity: bool = False
    """Loss: trains the mean velocity between two times, on the straight path with the target velocity."""
    head: bool = False
    """Variance: is learned, the second output of the network. Loss: needs such a variance."""
    single_steps: bool = False
    """Variance: belongs to single steps of the chain."""
    family: str = ""
    """Target, variance: a target with a family needs a variance of the same family."""
    preserves_variance: bool = False
    """Target: needs a schedule with alpha² + sigma² = 1."""
    clips: bool = True
    """Target: x0 follows from it closely enough to be clipped."""
    output: Callable[[int], Any] | None = None
    """Target: factory, of the number of steps, of the transform of the network's output."""
    step_index: bool = False
    """Conditioning: the index of the step, for networks with parameters for each step."""
    real: bool = False
    """Decoder: a density of real numbers, also outside of [-1, 1]."""
    weighs_times: bool = False
    """Time distribution: is part of the loss, since no weights make up for it."""
    takes_label: bool = False
    """Guidance: needs a model trained with and without labels."""
    logits: bool = False
    """Metric: needs a feature network that classifies."""
    heldout: bool = False
    """Metric: needs held-out data."""
    least: int = 2
    """Metric: least number of training examples."""
    counts: Callable[[Any], dict[str, float]] | None = None
    """Data set: figures counted in samples [N,*D], where every possible example is known."""
    entropies: Callable[[Mapping[str, Any], Any, float, float], dict[str, float]] | None = None
    """Data set: exact negative entropies in bits from (options, process, alpha, sigma of the first level)."""

    @property
    def direct(self) -> bool:
        """True for a model that draws samples in one network call, without noise levels."""
        return self.autoencoder or self.adversarial


def declare(**facts: Any) -> Callable[[Choice], Choice]:
    """Return a decorator that gives a function or class these `Facts`. Raises ValueError for an unknown one."""
    known = [field.name for field in dataclasses.fields(Facts)]
    for name in facts:
        if name not in known:
            raise ValueError(f"declare: unknown fact {name!r}. Use {', '.join(known)}")

    def decorate(choice: Choice) -> Choice:
        choice.facts = Facts(**facts)  # type: ignore[attr-defined]
        return choice

    return decorate


def facts_of(choice: Any) -> Facts:
    """Return the facts that a choice declares, or the defaults."""
    found = getattr(choice, "facts", None)
    return found if isinstance(found, Facts) else Facts()
