"""A trained run: its config and weights from a workdir's checkpoint, and what one asks of it.

run = trained.load("runs/digits")
seeds, samples = trained.draw(run, 64)
"""

import functools
import json
import logging
import tempfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from diffusion_jax import config as configs
from diffusion_jax import devices, files
from diffusion_jax.experiment import drawing, guidances, sources, wiring
from diffusion_jax.training import checkpoints, loop

log = logging.getLogger(__name__)


class Run(NamedTuple):
    """What a checkpoint holds, ready to use."""

    workdir: str
    step: int
    ema: str
    """The average the weights are, by its decay; "none" if they are the parameters themselves."""
    config: ConfigDict
    experiment: wiring.Experiment
    params: Any
    """On every device."""
    guide: ConfigDict | None = None
    """The config of the run that guides this one, if any."""


def load(
    workdir: str,
    step: int | str = "newest",
    ema: str = "",
    verify: bool = True,
    *,
    given: Mapping[str, Any] | None = None,
    **sections: Mapping[str, Any],
) -> Run:
    """Load the config and the weights of a run.

    ema: a decay, or "none" for the raw weights; "": the first average of the config. verify: compare the files with
    their checksums first. given: objects in place of names, by key of the config, such as {"network.name":
    choices.Given(...)}. sections: values to change in sections of the config. Raises FileNotFoundError or ValueError.
    """
    config = read_config(workdir, step, verify)
    for key, value in (given or {}).items():
        configs.put(config, key, value)
    for name, values in sections.items():
        with config[name].unlocked():  # a choice of yours brings its options along
            config[name].update(values)
    ema = ema or first_average(config)
    guide, of_guide = load_guide(workdir, config, verify)
    weights = checkpoints.restore_weights(workdir, step, None if ema == "none" else ema, verify)
    experiment = wiring.build(config, weights, guide=guide)  # a learned schedule is known from here on
    number = checkpoints.find_step(workdir, step, verify)
    return Run(workdir, number, ema, config, experiment, devices.replicate(weights | of_guide), guide)


def read_config(workdir: str, step: int | str = "newest", verify: bool = True) -> ConfigDict:
    """Return the config of a run over today's defaults. Raises FileNotFoundError or ValueError."""
    try:
        return configs.merge(checkpoints.read_config(workdir, step, verify))
    except ValueError as error:
        version = checkpoints.read_versions(workdir, step, verify).get("diffusion_jax", "an unknown version")
        raise ValueError(f"{workdir}, trained by diffusion_jax {version}: {error}") from error


def first_average(config: ConfigDict) -> str:
    """The decay of the average that a config names first, or "none"."""
    return str(next(iter(config.ema.decays), "none"))


def load_guide(workdir: str, config: ConfigDict, verify: bool = True) -> tuple[ConfigDict | None, dict[str, Any]]:
    """The config of the other run that config.guidance names, and {"classifier" or "guide": its weights}, if any.

    Raises as `load` does, and ValueError if none is named.
    """
    guidance = config.guidance
    if guidance.name not in ("classifier", "autoguidance"):
        return None, {}
    chosen = guidance[guidance.name]
    if not chosen.workdir and (guidance.name == "classifier" or not (chosen.ema or chosen.step != "newest")):
        raise ValueError(
            f"guidance.name={guidance.name!r}: name the run that guides, --guidance.{guidance.name}.workdir=DIR"
            + ("" if guidance.name == "classifier" else ", or a worse step or average of this one, .step=N, .ema=DECAY")
        )
    where = chosen.workdir or workdir
    guide = read_config(where, chosen.step, verify)
    ema = chosen.ema or first_average(guide)
    weights = checkpoints.restore_weights(where, chosen.step, None if ema == "none" else ema, verify)
    return guide, {"classifier" if guidance.name == "classifier" else "guide": weights}


def draw(run: Run, number: int, seed: int = 0, label: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Samples at seeds seed, seed + 1, …: (seeds int64 [N], samples in the levels of the data [N,*D]).

    label: the class of all of them; None draws one for each seed, see `labels`. Raises ValueError as `seeds_from` does,
    FloatingPointError where an adaptive sampler could not keep to its tolerance.
    """
    seeds = seeds_from(seed, number)
    asked = labels(run, seeds, label)
    return seeds, drawing.samples(run.config, run.experiment.sampler, complete=True)(run.params, seeds, asked)


def seeds_from(seed: int, number: int) -> np.ndarray:
    """seed, seed + 1, … int64 [number]. ValueError for a number below 1, or seeds that are not in 0 … 2^32 - 1."""
    if number < 1:
        raise ValueError(f"--num_samples={number} must be at least 1")
    if not 0 <= seed <= 2**32 - number:
        raise ValueError(f"--seed={seed} must be at least 0, and seed + num_samples at most 2^32")
    return np.arange(seed, seed + number)


def labels(run: Run, seeds: np.ndarray, label: int | None = None) -> np.ndarray | None:
    """The classes int32 [N] of the samples at these seeds: `label`, or drawn; None if the model is asked for none.

    Raises ValueError for a class that there is not, or for any where the model is asked for none.
    """
    classes = run.config.data.classes
    if label is not None and not guidances.uses_label(run.config):
        raise ValueError(
            f"--label={label}, but this model is not told the class (network.conditional=False); leave it out, or "
            "guide the model by a classifier, --guidance.name=classifier"
        )
    if label is not None and not 0 <= label < classes:
        raise ValueError(f"--label={label} is not a class; they are 0 to {classes - 1}")
    found = run.experiment.sampler.labels(jnp.asarray(seeds, jnp.uint32))
    if found is None:
        return None
    return np.asarray(found) if label is None else np.full(len(seeds), label, np.int32)


def network_calls(run: Run) -> int:
    """How often the network is asked for one sample, as counted by `build.count_calls`."""
    return wiring.count_calls(run.config, run.params, run.guide)


def heldout_loss(run: Run) -> dict[str, float]:
    """The loss on held-out data, as the training run reports it."""
    heldout = sources.source(run.config, "heldout")
    return loop.heldout_loss(run.config, run.experiment, heldout, loop.keys(run.config)[2])(run.params)


def save_figures(run: Run, figures: Mapping[str, Any]) -> None:
    """Add figures to workdir/evaluation/<step>-<ema>/figures.json."""
    path = evaluation_directory(run) / "figures.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    files.save_json(path, before | dict(figures))


def evaluation_directory(run: Run, shared: bool = False) -> epath.Path:
    """Where the results of evaluating a checkpoint go, made if need be: workdir/evaluation/<step>-<ema>.

    Of several processes only the first writes there, the others where it is thrown away; shared: the place itself, to
    read from. Raises PermissionError where it cannot be made: ask for it before the work.
    """
    if not shared and not devices.is_first():
        return epath.Path(_discarded().name)
    directory = epath.Path(run.workdir).expanduser() / "evaluation" / f"{run.step}-{run.ema}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PermissionError(
            f"{directory} cannot be made ({error.strerror}); copy the workdir to evaluate it"
        ) from error
    return directory


@functools.cache
def _discarded() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="diffusion_jax_")
