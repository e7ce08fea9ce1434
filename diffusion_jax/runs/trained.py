"""Trained runs: load config and weights from a run directory, draw samples, store results.

run = trained.load("runs/digits")
seeds, samples = trained.draw(run, 64)
"""

import functools
import logging
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import traverse_util
from ml_collections import ConfigDict

from diffusion_jax import config as configs
from diffusion_jax import devices, files
from diffusion_jax.experiment import choices, drawing, guidances, sources, wiring
from diffusion_jax.networks.parameters import check_finite
from diffusion_jax.training import autoencoders, checkpoints, evaluations, reports, state

log = logging.getLogger(__name__)

_COUNTED: dict[str, int] = {}
"""Network calls, by run and options, see `network_calls`."""

RESULTS = (".json", ".npz", ".csv", ".md", ".png", ".pdf", ".svg")
"""Suffixes of the files of an evaluation."""


class Run(NamedTuple):
    """Config and weights of a checkpoint, with the functions built from them."""

    workdir: str
    step: int
    ema: str
    """Decay of the average that `params` are; "none" for the raw weights."""
    config: ConfigDict
    experiment: wiring.Experiment
    params: Any
    """Weights, replicated on every device."""
    guide: ConfigDict | None = None
    """Config of the run that guides this one, if any."""


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
    their checksums first. given: objects in place of names, by key of the config, such as
    {"network.name": choices.Instance(...)}. sections: values to change in sections of the config. Raises
    FileNotFoundError or ValueError.
    """
    step = checkpoints.find_step(workdir, step, verify)  # once: a training may save another one meanwhile
    config = read_config(workdir, step, verify)
    for key, value in (given or {}).items():
        configs.put(config, key, value)
    for name, values in sections.items():
        with config[name].unlocked():  # a choice of yours brings its options along
            config[name].update(values)
    config = autoencoders.attach(config, workdir, verify=verify)
    ema = ema or state.first_average(config)
    guide, of_guide = load_guide(workdir, config, verify)
    weights = checkpoints.restore_weights(workdir, step, ema, verify)
    experiment = wiring.build(config, weights, guide=guide)  # a learned schedule is known from here on
    if step and (lagging := reports.lag(config, ema, step)):
        log.warning("%s, %s", workdir, lagging)
    return Run(workdir, step, ema, config, experiment, devices.replicate(weights | of_guide), guide)


def read_config(workdir: str, step: int | str = "newest", verify: bool = True) -> ConfigDict:
    """Return the config of a run over today's defaults. Raises FileNotFoundError or ValueError."""
    try:
        return configs.merge(checkpoints.read_config(workdir, step, verify))
    except ValueError as error:
        version = checkpoints.read_versions(workdir, step, verify).get("diffusion_jax", "an unknown version")
        raise ValueError(f"{workdir}, trained by diffusion_jax {version}: {error}") from error


def load_guide(workdir: str, config: ConfigDict, verify: bool = True) -> tuple[ConfigDict | None, dict[str, Any]]:
    """Return the config of the guiding run, and {"classifier" or "guide": its weights}; (None, {}) without.

    Raises as `load` does, and ValueError if none is named.
    """
    guidance = config.guidance
    section, by_classifier = guidances.other_run(config), guidances.by_classifier(config)
    if not section:
        return None, {}
    chosen = guidance[section]
    if not chosen.workdir and (by_classifier or not (chosen.ema or chosen.step != "newest")):
        raise ValueError(
            f"guidance.name={guidance.name!r}: name the run that guides, --guidance.{section}.workdir=DIR"
            + ("" if by_classifier else ", or a worse step or average of this one, .step=N, .ema=DECAY")
        )
    where = chosen.workdir or workdir
    step = checkpoints.find_step(where, chosen.step, verify)
    guide = read_config(where, step, verify)
    if not autoencoders.same(config, guide, where):
        raise ValueError(
            f"guidance.{section}: {where} and {workdir} must have the same autoencoder, or both no latent.workdir"
        )
    ema = chosen.ema or state.first_average(guide)
    weights = checkpoints.restore_weights(where, step, ema, verify)
    return guide, {"classifier" if by_classifier else "guide": weights}


def draw(run: Run, number: int, seed: int = 0, label: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return seeds seed, seed + 1, … int64 [N], and their samples [N,*D] in the levels of the data.

    label: the class of all samples; None draws one for each seed, see `labels`. Raises ValueError as `seeds_from` does,
    FloatingPointError for samples that are not finite, or not solved to the tolerance of an adaptive sampler.
    """
    return prepare_draw(run)(number, seed, label)


def prepare_draw(run: Run) -> Callable[[int, int, int | None], tuple[np.ndarray, np.ndarray]]:
    """Return `draw` of a run as `draw(number, seed, label)`, compiled at its first call only."""
    samples = drawing.samples(run.config, run.experiment.sampler, complete=True)

    def drawn(number: int, seed: int, label: int | None) -> tuple[np.ndarray, np.ndarray]:
        seeds = seeds_from(seed, number)
        return seeds, samples(run.params, seeds, labels(run, seeds, label))

    return drawn


def seeds_from(seed: int, number: int, name: str = "num_samples") -> np.ndarray:
    """Return seed, seed + 1, … int64 [number]. name: of the flag with the number.

    Raises ValueError unless all lie in 0 … 2^32 - 1.
    """
    for flag, value in ((name, number), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise ValueError(f"--{flag}={value!r}: must be a whole number")
    if number < 1:
        raise ValueError(f"--{name}={number}: must be at least 1")
    if not 0 <= seed <= 2**32 - number:
        raise ValueError(f"--seed={seed}: must be at least 0, and seed + {name} at most 2^32")
    return np.arange(seed, seed + number)


def labels(run: Run, seeds: np.ndarray, label: int | None = None) -> np.ndarray | None:
    """Return the class labels int32 [N] of the samples with these seeds.

    None if the model takes no class. label: the class of all samples; None draws one class per seed. Raises ValueError
    for a label out of range, or for any label if the model takes no class.
    """
    classes = run.config.data.classes
    if label is not None and not guidances.uses_label(run.config):
        raise ValueError(
            f"--label={label}: this model takes no class (network.conditional=False). Leave it out, or use "
            "--guidance.name=classifier"
        )
    if label is not None and not 0 <= label < classes:
        raise ValueError(f"--label={label}: no such class. Use 0 to {classes - 1}")
    found = run.experiment.sampler.labels(jnp.asarray(seeds, jnp.uint32))
    if found is None:
        return None
    return np.asarray(found) if label is None else np.full(len(seeds), label, np.int32)


def network_calls(run: Run) -> int:
    """Return the number of function evaluations (NFE) per sample, from `wiring.count_calls`, counted once."""
    if any(isinstance(value, choices.Instance) for _, value in configs.flatten(run.config)):  # two may have one name
        return wiring.count_calls(run.config, run.params, run.guide)
    key = str((run.workdir, run.step, run.ema, configs.in_use(configs.plain(run.config))))
    if key not in _COUNTED:
        _COUNTED[key] = wiring.count_calls(run.config, run.params, run.guide)
    return _COUNTED[key]


def sampling_sections(run: Run) -> dict[str, Any]:
    """Return the sections of the config that samples of a trained network depend on."""
    return {name: run.config[name].to_dict() for name in ("sampler", "guidance") if name in run.config}


def check_weights(run: Run) -> None:
    """Raise ValueError, naming arrays, if the weights of a run are not finite."""
    arrays = traverse_util.flatten_dict(run.params, sep="/")
    check_finite(f"--workdir={run.workdir}: weights of step {run.step}", arrays, "Try another --step or --ema")


def heldout_loss(run: Run) -> dict[str, float]:
    """Return the loss on held-out data, as the training reports it; {} without held-out data."""
    heldout = sources.heldout_or_none(run.config, "held-out loss")
    if heldout is None:
        return {}
    return evaluations.heldout_loss(run.config, run.experiment, heldout)(run.params)


def save_figures(run: Run, figures: Mapping[str, Any], sampled: Mapping[str, Any] | None = None) -> None:
    """Add figures to workdir/evaluation/<step>-<ema>/figures.json.

    sampled: figures of samples. The file says under `drawn` by which options, and earlier figures of samples that were
    drawn by others are removed.
    """
    path = evaluation_directory(run) / "figures.json"
    before = files.read_json(path) if path.exists() else {}
    if sampled:
        by = {key: value for key, value in configs.in_use(sampling_sections(run)).items() if key != "sampler.tile"}
        earlier = before.pop("drawn", {"by": by, "figures": []})
        if configs.as_tuples(earlier["by"]) != configs.as_tuples(by):
            before = {name: value for name, value in before.items() if name not in earlier["figures"]}
            earlier["figures"] = []
        before["drawn"] = {"by": by, "figures": sorted({*earlier["figures"], *sampled})}
    files.save_json(path, before | dict(figures) | dict(sampled or {}))


def evaluation_directory(run: Run, shared: bool = False) -> epath.Path:
    """Return the directory of the results of a checkpoint, workdir/evaluation/<step>-<ema>; make it if necessary.

    If there are several processes, only the first writes there, and each other process writes into a temporary
    directory; shared: the directory itself in every process, to read from. Raises ValueError or PermissionError if it
    cannot be made or written to, or if a folder has the name of a file in it: call it before long work.
    """
    if not shared and not devices.is_first():
        return epath.Path(_discarded().name)
    directory = files.place_of(run.workdir) / "evaluation" / f"{run.step}-{run.ema}"
    files.check_folder(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PermissionError(
            f"{directory}: cannot be made ({error.strerror}). Copy the run directory to evaluate it"
        ) from error
    for path in directory.iterdir():
        if path.suffix in RESULTS:
            files.check_file(path)
    return directory


@functools.cache
def _discarded() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="diffusion_jax_")
