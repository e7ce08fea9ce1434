"""Schedules, samplers, losses and processes as objects: `dj.schedules.cosine(num_steps=1000)`."""

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax import config as configs
from diffusion_jax.api.keys import put_existing
from diffusion_jax.experiment import choices
from diffusion_jax.sampling.registry import SAMPLERS


@dataclasses.dataclass(frozen=True)
class Choice:
    """A schedule, sampler, loss or process with its options, such as `dj.schedules.cosine(num_steps=1000)`.

    Called, it is the object itself: `dj.schedules.cosine(num_steps=1000)(t)` returns (log alpha, log sigma).
    """

    section: str
    name: str
    options: Mapping[str, Any]

    def make(self, **provided: Any) -> Any:
        """Return the object. provided: further arguments of its factory. Raises ValueError."""
        return choices.make(self.section, self.name, configs.choices()[self.section], self.options, **provided)

    def __call__(self, *arguments: Any) -> Any:
        """Call the object."""
        return self.instance(*arguments)

    @functools.cached_property
    def instance(self) -> Any:
        """The object itself, made when first used."""
        return self.make()

    def put(self, config: ConfigDict) -> None:
        """Write the choice and all of its options into a config."""
        config[self.section].name = self.name
        defaults = choices.signature_options(configs.choices()[self.section][self.name])
        for key, value in {**defaults, **self.options}.items():
            name = f"{self.section}.{self.name}.{key}"
            put_existing(config, "process.num_steps" if key == "num_steps" else name, value, name)


class Namespace:
    """The choices of a section as functions: `dj.samplers.ddim(eta=0.5)` returns a `Choice`."""

    def __init__(self, section: str) -> None:
        """Make one function per choice of a config section."""
        self._section = section
        table = SAMPLERS if section == "sampler" else configs.choices()[section]  # without the time grids
        for name, factory in table.items():
            setattr(self, name, self._function(name, factory))

    def _function(self, name: str, factory: Any) -> Callable[..., Choice]:
        given = set(choices.PROVIDED) - {"num_steps"}  # the experiment gives these
        taken = inspect.signature(factory)
        taken = taken.replace(parameters=[p for key, p in taken.parameters.items() if key not in given])

        def choice(*values: Any, **options: Any) -> Choice:
            try:
                bound = taken.bind_partial(*values, **options)
            except TypeError as error:
                raise ValueError(f"{self._section}.{name}: {error}; it takes {taken}") from error
            return Choice(self._section, name, dict(bound.arguments))

        choice.__name__ = choice.__qualname__ = name
        choice.__doc__ = factory.__doc__
        choice.__signature__ = taken  # type: ignore[attr-defined]
        return choice

    def __getattr__(self, name: str) -> Any:
        """Raise AttributeError, with the nearest name, for a choice that does not exist."""
        if name.startswith("_"):
            raise AttributeError(name)
        near = difflib.get_close_matches(name, list(self), 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise AttributeError(f"dj.{plural_of(self._section)} has no {name!r}.{hint} It has {', '.join(self)}")

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the choices."""
        return (name for name in vars(self) if not name.startswith("_"))

    def __repr__(self) -> str:
        return f"<{self._section}: {', '.join(self)}>"


NAMESPACES = {"schedules": "schedule", "samplers": "sampler", "losses": "loss", "processes": "process"}


def plural_of(section: str) -> str:
    """Return the name of the namespace of a section: "schedules" for "schedule"."""
    return next(key for key, known in NAMESPACES.items() if known == section)


def chosen_of(section: str, value: Any) -> Any:
    """Check the argument for a section, and return it.

    It is a `Choice`, a name or "module:function", or a schedule of yours. Raises ValueError for a choice of another
    section, an unknown name, or a function of `dj.schedules` and so on that was not called.
    """
    plural = plural_of(section)
    if isinstance(value, Choice):
        if value.section != section:
            raise ValueError(f"{section}: must be of dj.{plural}, not {value.section} {value.name!r}")
        return value
    if isinstance(value, str):
        table = SAMPLERS if section == "sampler" else configs.choices()[section]
        choices.choose(section, value, table)
        return value
    if vars(namespace(plural)).get(getattr(value, "__name__", "")) is value:
        raise ValueError(f"{section}={value.__name__}: call it, dj.{plural}.{value.__name__}()")
    if section != "schedule" or not callable(value) or isinstance(value, type):
        kinds = "its name or a function" if section == "schedule" else "its name or 'module:function'"
        raise ValueError(f"{section}={value!r}: must be of dj.{plural}, {kinds}")
    return value


@functools.cache
def namespace(name: str) -> Any:
    """Return `dj.schedules`, `dj.samplers`, `dj.losses` or `dj.processes`."""
    return Namespace(NAMESPACES[name])
