"""Train a model on arrays."""

import contextlib
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax import config as configs
from diffusion_jax.api.arrays import check_range, source_from_arrays, with_classes_of_run
from diffusion_jax.api.keys import check_arguments, put_existing, put_options
from diffusion_jax.api.model import Model
from diffusion_jax.api.run import Run
from diffusion_jax.experiment import sources
from diffusion_jax.experiment.choices import Instance
from diffusion_jax.networks import adapter
from diffusion_jax.runs import trained
from diffusion_jax.training import checkpoints
from diffusion_jax.training import loop as training_loop


def train(
    model: Model,
    data: Any,
    *,
    labels: Any = None,
    heldout: Any = None,
    heldout_labels: Any = None,
    levels: int | None = None,
    train_steps: int = 5000,
    batch_size: int = 128,
    learning_rate: float = 2e-4,
    seed: int = 0,
    workdir: str | pathlib.Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Run:
    """Train a model on arrays, and return the run. The same call with the same workdir resumes.

    Arguments:
        data: uint8 images [N,H,W,C] (or [N,H,W]), or floats [N,*D]: vectors of any range, images in [-1, 1].
        labels: int [N], 0 … classes - 1, for a network that takes a label.
        heldout, heldout_labels: data of the same kind to measure the held-out loss on.
        levels: grey levels of integer data (default 256), 0 for floats.
        learning_rate: of Adam, after a warm-up of a tenth of the steps, at most 5,000. A resumed run keeps its warm-up.
        workdir: run directory with checkpoints, metrics and pictures; None: a temporary one, gone with the run.
        options: any other keys of the config, such as {"optimizer.adam.weight_decay": 0.01, "parallel": "fsdp"}.

    Raises ValueError, before anything compiles, where model, data and options do not fit; `dj.Diverged` where training
    diverges.

    Progress goes to the logger "diffusion_jax", at level INFO.
    """
    if not isinstance(model, Model):
        raise ValueError(f"model: expected a dj.Model, got {type(model).__name__}")
    source, held = source_from_arrays(data, labels, levels, "data"), None
    if heldout is not None:
        held = source_from_arrays(heldout, heldout_labels, source.levels, "heldout")
        if held.shape != source.shape:
            raise ValueError(f"heldout: has shape {held.shape}, the training data {source.shape}")
    config = model.config()
    if labels is None and heldout_labels is not None:
        raise ValueError("heldout_labels: the training data have no labels. Pass labels=, or leave it out")
    if labels is not None and not adapter.inspect_call(model.network).label:
        raise ValueError(
            f"labels: {type(model.network).__name__} takes no label; its __call__ must be (x, time, label)"
        )
    splits = {"train": source} | ({"heldout": held} if held else {})
    configs.put(config, "data.name", Instance(splits, sources.IN_MEMORY))
    values = {"train_steps": train_steps, "batch_size": batch_size, "seed": seed, "learning_rate": learning_rate}
    keys = {name: f"optimizer.{name}" if name == "learning_rate" else name for name in values}
    for name, key in keys.items():
        put_existing(config, key, values[name], name)
    config.network.conditional = labels is not None
    config.optimizer.warmup_steps = _warmup_steps(config.train_steps, workdir)
    tenth = max(1, config.train_steps // 10)
    drawn = workdir is not None and len(source.shape) in (1, 3)
    config.report.update(every=tenth, samples_every=5 * tenth if drawn else 0, tensorboard=False)
    config.eval.every = tenth if held else 0
    config.checkpoint.every = 5 * tenth
    if not source.levels:
        config.bound.update(decoder="density", clip_x0=False)
        config.sampler.clip_x0 = len(source.shape) == 3
    check_arguments(options, model.arguments() | {key: (name, values[name]) for name, key in keys.items()})
    put_options(config, options)
    if labels is None and config.network.label_dropout:
        raise ValueError("label_dropout: there are no labels; pass labels=")
    if held:
        configs.put(config, "data.classes", source.classes)
        check_range(config, held, "heldout")
        splits["heldout"] = with_classes_of_run(config, held, "heldout_labels")
    place = str(workdir or tempfile.mkdtemp(prefix="diffusion_jax_"))
    try:
        training_loop.train(config, place)
        run = Run(trained.load(place, given=_given(config)))
    except BaseException:
        if workdir is None and not checkpoints.steps(place):
            shutil.rmtree(place, ignore_errors=True)
        raise
    if workdir is None:
        weakref.finalize(run, shutil.rmtree, place, ignore_errors=True)
    return run


def _warmup_steps(train_steps: int, workdir: str | pathlib.Path | None) -> int:
    """Return the warm-up of the run in `workdir`, or a tenth of the steps."""
    if workdir is not None:
        with contextlib.suppress(FileNotFoundError):
            return int(trained.read_config(str(workdir)).optimizer.warmup_steps)
    return max(1, min(5000, train_steps // 10))


def _given(config: ConfigDict) -> dict[str, Instance]:
    """Return the objects that a config holds in place of names, by key."""
    return {key: value for key, value in configs.flatten(config) if isinstance(value, Instance)}
