"""Load a run from its directory."""

import pathlib
from typing import Any

import flax.linen as nn
import jax

from diffusion_jax.api.arrays import source_from_arrays, with_classes_of_run
from diffusion_jax.api.model import spelling
from diffusion_jax.api.run import Run
from diffusion_jax.experiment import sources, wiring
from diffusion_jax.experiment.choices import Instance
from diffusion_jax.process.base import Schedule
from diffusion_jax.runs import trained


def load(
    workdir: str | pathlib.Path,
    step: int | str = "newest",
    ema: str | float = "",
    *,
    network: nn.Module | None = None,
    schedule: Schedule | None = None,
    data: Any = None,
    labels: Any = None,
    heldout: Any = None,
    heldout_labels: Any = None,
) -> Run:
    """Load a run from its directory.

    Arguments:
        step: "newest", "best" (by the key `checkpoint.best`, the lowest held-out loss by default) or a number.
        ema: decay of the average to use, such as 0.9999, "posthoc:SIGMA_REL", or "none" for the raw weights; "": the
            first one of the config.
        network, schedule: the objects the run was trained with, where they cannot be imported by name.
        data, labels, heldout, heldout_labels: the arrays of a run that was trained on arrays, to evaluate it.

    Raises FileNotFoundError or ValueError where there is no such run, or its network cannot be imported.
    """
    given: dict[str, Instance] = {}
    for key, made in (("network.name", network), ("schedule.name", schedule)):
        if made is not None:
            given[key] = Instance(made, spelling(type(made) if isinstance(made, nn.Module) else made))
    stored = trained.read_config(str(workdir), step) if data is not None or heldout is not None else None
    if stored is not None:
        pairs = {"train": (data, labels), "heldout": (heldout, heldout_labels)}
        splits = {
            name: with_classes_of_run(stored, source_from_arrays(x, y, stored.data.levels, name), f"labels of {name}")
            for name, (x, y) in pairs.items()
            if x is not None
        }
        given["data.name"] = Instance(splits, sources.IN_MEMORY)
    run = trained.load(str(workdir), step, str(ema), given=given)
    if network is not None:
        _check_network(run)
    return Run(run)


def _check_network(run: trained.Run) -> None:
    """Raise ValueError if the weights of a run do not fit its network."""
    made = jax.eval_shape(lambda: wiring.init(run.config, run.experiment.network, jax.random.key(0)))
    shapes = {}
    for name, tree in (("network", made["net"]), ("weights", run.params["net"])):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        shapes[name] = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}
    for path in sorted(shapes["network"].keys() | shapes["weights"].keys()):
        here, stored = shapes["network"].get(path, "nothing"), shapes["weights"].get(path, "nothing")
        if here != stored:
            raise ValueError(f"network: {path} has {here}, the weights of {run.workdir} have {stored} there")
