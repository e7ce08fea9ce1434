"""Configs: keys with defaults and meanings, recipes, overrides, and stored configs.

Stored configs may be of older versions. A choice is `section.name`; the options of each choice stand beside it under
`section.<name>` and are the keyword arguments of the function or class that the name stands for, with its defaults. A
name may also be `module:function`, a function or class of yours; its options are then `section.options`. Any key can be
set from the command line, `--config.KEY=VALUE`.

    c = config.load("digits")                       # a recipe by name, or by path: "configs/digits.py"
    config.override(c, "schedule.name", "cosine")
    c = config.merge(stored)                        # a config of an older version, over today's defaults
"""

import ast
import difflib
import fnmatch
import functools
import importlib.util
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from diffusion_jax import option_meanings


class Key(NamedTuple):
    """A key of the schema. `{names}` in a meaning stands for the names that its section can choose."""

    default: Any
    meaning: str


# The schema: every key that is no option of a choice. Options come from the signatures of the choices, see `choices`.

SCHEMA: dict[str, Key] = {
    "seed": Key(0, "Seed of the parameters, the order of the data, the times and the noise."),
    "train_steps": Key(1000, "Optimiser steps in all."),
    "batch_size": Key(128, "Examples of the global batch, over all devices."),
    "accumulate_steps": Key(1, "Parts in which each device works through its share of the batch."),
    "parallel": Key("shard_map", "shard_map, fsdp (the training state is divided over the devices) or pmap."),
    "remat": Key(False, "Recompute blocks in the backward pass: less memory, more time."),
    "require_accelerator": Key(False, "Refuse to run on a CPU."),
    "data.name": Key("digits", "Source: digits, toy2d, heartbeat, dead_leaves, arrays, folder, idx, tfds."),
    "data.flip": Key(False, "Mirror training images left to right at random."),
    "data.augment": Key(0.0, "Probability of each transform of training images, flips to shifts; 0: none."),
    "data.coupling": Key("none", "Noise of a training batch: none (independent), optimal_transport (assigned to it)."),
    "data.workers": Key(0, "Processes that read and decode files; 0: threads."),
    "data.shape": Key((), "Shape of an example; filled in from the data when training starts."),
    "data.levels": Key(0, "Grey levels: 256 for photographs, 0 for floats; filled in from the data."),
    "data.classes": Key(0, "Number of classes; filled in from the data."),
    "data.size": Key(0, "Number of training examples; filled in from the data."),
    "data.class_names": Key((), "Names of the classes, where they have some; filled in from the data."),
    "data.fingerprint": Key("", "Hash of some training examples; filled in from the data."),
    "data.heldout_fingerprint": Key("", "Hash of some held-out examples; filled in when training evaluates them."),
    "data.mean": Key(0.0, "The model sees (x - mean) / std of data in [-1, 1]."),
    "data.std": Key(1.0, "See data.mean."),
    "data.dequantise": Key(False, "Add uniform noise of one grey level, so that the data have a density."),
    "process.name": Key("gaussian", "Forward process: gaussian, binomial (two levels), categorical (2 to 256)."),
    "process.num_steps": Key(1000, "Steps T of the chain, at times k/T; 0: continuous time."),
    "schedule.name": Key("linear", "Noise schedule: {names}."),
    "network.name": Key("unet", "Network: {names}."),
    "network.conditional": Key(False, "Condition the network on the class label."),
    "network.label_dropout": Key(0.0, "Share of labels dropped in training, for classifier-free guidance."),
    "network.conditioning": Key(
        "step", "Time input of the network: step (k - 1), time (999 t), slow_time (8 t), logsnr, log_sigma."
    ),
    "prediction.target": Key(
        "eps", "Network output: eps, x0, v, velocity, score, posterior_mean, edm, dpm2015_paper, dpm2015_code."
    ),
    "prediction.input_scaling": Key("none", "none, or unit_variance: the input divided by its standard deviation."),
    "prediction.sigma_data": Key(0.5, "Standard deviation of the data in [-1, 1], for edm and unit_variance."),
    "prediction.variance": Key(
        "fixed_large",
        "Variance of the reverse kernel: fixed_small, fixed_large; with a bound as loss also learned_diagonal, "
        "learned_range, dpm2015_paper, dpm2015_code.",
    ),
    "latent.workdir": Key("", "Run directory of an autoencoder (loss.name=elbo), in whose latents to train."),
    "latent.step": Key("newest", "Checkpoint of that run: newest, best or a number."),
    "latent.ema": Key("", "Average of that run: a decay, none, or empty for the first."),
    "latent.autoencoder": Key("", "File of the autoencoder in the run directory; filled in when training starts."),
    "loss.name": Key(
        "simple",
        "Weighted squared errors: simple, snr, truncated_snr, min_snr, p2, edm, likelihood. Bounds: vlb, hybrid, vdm, "
        "K, masked (masked diffusion). mean_flow: mean velocities, for few steps. cross_entropy trains a classifier of "
        "noisy examples, elbo an autoencoder, gan a generator.",
    ),
    "loss.reduction": Key("mean", "Over the dimensions of a squared error: mean, sum, half_sum."),
    "times.name": Key(
        "uniform", "Distribution of t: uniform, low_discrepancy, importance, logit_normal, log_normal (of sigma)."
    ),
    "times.min_t": Key(0.0, "Smallest time in continuous training."),
    "bound.decoder": Key("bins", "Last term of the bound: bins, bins_tanh, softmax; density for floats."),
    "bound.clip_x0": Key(True, "Clip the predicted x0 to [-1, 1] in the bound."),
    "bound.num_steps": Key(0, "Steps of the bound; 0: all steps of the chain."),
    "bound.num_examples": Key(0, "Held-out examples of every likelihood; 0: eval.max_examples."),
    "bound.paths": Key((1, 4, 16), "Numbers of whole paths of the bound `multi`; each divides the next."),
    "ode.rtol": Key(1e-5, "Relative tolerance per step of the probability-flow ODE."),
    "ode.atol": Key(1e-5, "Absolute tolerance per step of the probability-flow ODE."),
    "ode.max_calls": Key(10_000, "Network calls after which the ODE counts as unsolved."),
    "ode.min_t": Key(0.0, "Time at which the ODE ends; 0: the lowest level with noise, else 1e-5."),
    "ode.trace": Key("rademacher", "Divergence: rademacher or gaussian probes, or exact."),
    "ode.probes": Key(1, "Probes of the divergence per example."),
    "ode.dequantisation": Key("uniform", "Noise over a grey level: uniform, process (the noise of min_t), none."),
    "ode.law": Key("prior", "Distribution at t = 1: prior N(0, alpha² + sigma²), noise N(0, sigma²)."),
    "optimizer.name": Key("adam", "Optimiser: adam, adamw, lion, muon."),
    "optimizer.learning_rate": Key(2e-4, "Learning rate after the warm-up, before any decay."),
    "optimizer.warmup_steps": Key(5000, "Steps of linear warm-up from 0."),
    "optimizer.schedule": Key("constant", "Learning rate after the warm-up: constant, linear, cosine, inverse_sqrt."),
    "optimizer.grad_clip": Key(1.0, "Largest global norm of the averaged gradient; 0: no clipping."),
    "ema.decays": Key(
        (0.9999,), "Averages of the parameters, of which --ema is the first: decays, or power:SIGMA_REL (post-hoc)."
    ),
    "ema.ramp": Key(0.05, "Half-life of an average at most ramp times the updates so far; 0: no ramp."),
    "sampler.name": Key("ancestral", "Sampler: ancestral, ddim, dpmpp_2m, …; docs/samplers.md lists all."),
    "sampler.num_steps": Key(0, "Sampling steps; 0: all steps of the chain, down to sampler.min_t."),
    "sampler.grid": Key(
        "uniform", "Time grid: uniform, quadratic, logsnr, karras; of a chain also inclusive, strided, to_first."
    ),
    "sampler.levels": Key((), "Levels k of the chain one by one, such as (1000, 500, 1), instead of num_steps."),
    "sampler.times": Key((), "Times one by one, such as (1.0, 0.5, 0.0), instead of num_steps."),
    "sampler.min_t": Key(0.0, "Time at which the grid ends; of a chain k/T, with 1/T the first level."),
    "sampler.clip_x0": Key(True, "Clip the predicted x0 to [-1, 1] at every step (never with posterior_mean)."),
    "sampler.dynamic_threshold": Key(
        0.0, "Quantile s of |x0|, such as 0.995: clip x0 to [-s, s] and divide by s where s > 1; 0: clip to [-1, 1]."
    ),
    "sampler.keep_eps": Key(False, "Keep the predicted eps where x0 is clipped, as DDIM in diffusers does."),
    "sampler.denoise": Key(True, "End at the predicted x0 where the schedule's last level still has noise."),
    "sampler.tile": Key(64, "Samples per device and call; no sample depends on how many are drawn."),
    "guidance.name": Key("none", "none, classifier_free, classifier, autoguidance."),
    "guidance.scale": Key(1.0, "w of weak + w (strong - weak); 1: no guidance. classifier: factor of its gradient."),
    "guidance.interval_t": Key((0.0, 1.0), "Times between which guidance acts."),
    "guidance.rescale": Key(0.0, "Interpolation of the standard deviation of x0 to that without guidance; 0: off."),
    "guidance.classifier.workdir": Key("", "Run directory of a classifier (loss.name=cross_entropy)."),
    "guidance.classifier.step": Key("best", "Checkpoint of that run: newest, best or a number."),
    "guidance.classifier.ema": Key("", "Average of that run: a decay, none, or empty for the first."),
    "guidance.autoguidance.workdir": Key("", "Run directory of the worse model; empty: this run."),
    "guidance.autoguidance.step": Key("newest", "Checkpoint of that run: newest, best or a number."),
    "guidance.autoguidance.ema": Key("", "Average of that run: a decay, none, or empty for the first."),
    "checkpoint.every": Key(10_000, "Steps between checkpoints."),
    "checkpoint.keep": Key(2, "Newest checkpoints that stay on disk."),
    "checkpoint.keep_every": Key(0, "Steps between checkpoints that stay for good; 0: none."),
    "checkpoint.best": Key("heldout_loss", "Figure of --step=best: heldout_loss, or a metric (fd_pixels_500)."),
    "guard.most_skipped": Key(100, "Updates in a row that are not finite before training ends."),
    "guard.rollbacks": Key(0, "Times a diverged run goes back to its last checkpoint instead of ending."),
    "report.every": Key(100, "Steps between lines of metrics."),
    "report.samples_every": Key(10_000, "Steps between sample pictures, with early ones as well; 0: none."),
    "report.num_samples": Key(64, "Samples of a picture."),
    "report.sampler_steps": Key(0, "Sampling steps of pictures; 0: sampler.num_steps."),
    "report.tensorboard": Key(True, "Write TensorBoard files where TensorFlow is installed."),
    "report.wandb": Key("", "Project of Weights & Biases to write to as well; empty: none."),
    "eval.every": Key(10_000, "Steps between held-out losses; 0: never."),
    "eval.max_examples": Key(10_000, "Held-out examples of an evaluation at most."),
    "eval.passes": Key(1, "Passes over the held-out set, each with other times and noise."),
    "eval.num_samples": Key(1000, "Samples that `main evaluate` draws."),
    "eval.quality_every": Key(0, "Steps between sample-quality metrics during training; 0: never."),
    "eval.quality_samples": Key(500, "Samples of these metrics."),
    "eval.quality_metrics": Key(("fid", "pr"), "These metrics: fid, kid, is, pr, nn."),
    "eval.features": Key("pixels", "Feature network of these metrics: pixels, digits, grey28, inception, MODULE:NAME."),
    "eval.svm": Key(False, "Classify samples by an SVM fitted on the labelled training data, for small data sets."),
}  # fmt: skip

RENAMED: dict[str, tuple[str, dict[Any, Any]]] = {
    "network.told": ("network.conditioning", {}),
    "prediction.input": ("prediction.input_scaling", {"as_it_is": "none"}),
    "sampler.steps": ("sampler.levels", {}),
    **{f"optimizer.{key}": (f"optimizer.adam.{key}", {}) for key in ("b1", "b2", "eps", "weight_decay")},
}
"""Keys of older versions: the name today, and values that are spelt otherwise."""
GONE: dict[str, Any] = {}
"""Keys that exist no more, with the default they had: a stored config may hold that value, and no other."""
FORMER: dict[str, Any] = {"ema.ramp": 0.0}
"""Defaults that have changed: a stored config that lacks such a key was trained with this value."""
ALIASES: dict[str, tuple[str, ...]] = {
    "lr": ("optimizer.learning_rate",),
    "wd": ("optimizer.*.weight_decay",),
    "beta1": ("optimizer.*.b1", "optimizer.muon.beta"),
    "beta2": ("optimizer.*.b2",),
    "betas": ("optimizer.*.b1", "optimizer.*.b2", "optimizer.muon.beta"),
    "steps": ("train_steps", "*.num_steps"),
    "timesteps": ("process.num_steps",),
    "decay": ("ema.decays",),
    "ema": ("ema.decays",),
    "w": ("guidance.scale",),
    "cfg_scale": ("guidance.scale",),
    "guidance_scale": ("guidance.scale",),
    "type": ("*.name",),
    "dir": ("data.*.path", "data.*.data_dir"),
    "data_dir": ("data.*.path",),
    "path": ("data.*.path", "data.*.data_dir"),
}
"""Names that people type, as the last part of a key, for hints: patterns of the keys in use that they mean."""


@functools.cache
def choices() -> dict[str, dict[str, Any]]:
    """Return the factories of every section that makes a choice, by section and name."""
    from diffusion_jax.experiment import objectives, optimizers, paths, sources, wiring
    from diffusion_jax.networks.registry import NETWORKS
    from diffusion_jax.objective import time_sampling
    from diffusion_jax.sampling import grids
    from diffusion_jax.sampling.registry import SAMPLERS

    return {
        "data": sources.SOURCES,
        "process": wiring.PROCESSES,
        "schedule": paths.SCHEDULES,
        "network": NETWORKS,
        "loss": objectives.LOSSES,
        "times": time_sampling.TIME_SAMPLERS,
        "optimizer": {**optimizers.OPTIMIZERS, **optimizers.RATES},
        "sampler": {**SAMPLERS, **grids.GRIDS},
    }


@functools.cache
def _flat_defaults() -> dict[str, Any]:
    """Return every key with its default: per section its own keys, then the options."""
    from diffusion_jax.experiment.choices import signature_options

    sections: dict[str, dict[str, Any]] = {}
    for key, (default, _) in SCHEMA.items():
        sections.setdefault(key.partition(".")[0] if "." in key else "", {})[key] = default
    for section, factories in choices().items():
        for name, factory in factories.items():
            for option, default in signature_options(factory).items():
                sections[section].setdefault(f"{section}.{name}.{option}", default)
    return {key: default for of_section in sections.values() for key, default in of_section.items()}


def defaults() -> ConfigDict:
    """Return a config with every key at its default. The defaults are DDPM with L_simple, on the embedded digits."""
    nested: dict[str, Any] = {section: {name: {} for name in factories} for section, factories in choices().items()}
    for key, default in _flat_defaults().items():
        *sections, last = key.split(".")
        node = nested
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = default
    return ConfigDict(nested)


def table() -> list[tuple[str, str, Any, str]]:
    """Return (key, type, default, meaning) of every key."""
    rows = []
    for key, default in _flat_defaults().items():
        if key in SCHEMA:
            meaning = SCHEMA[key].meaning.replace("{names}", ", ".join(choices().get(key.partition(".")[0], ())))
        else:
            section, name, _ = key.split(".")
            first_line = (choices()[section][name].__doc__ or "").strip().partition("\n")[0]
            meaning = option_meanings.meaning(key) or f"{section} {name}: {first_line.rstrip('.')}."
        rows.append((key, type(default).__name__, default, meaning))
    return rows


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of a nested config, lists as tuples."""
    for key, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _tuples(value)


# Recipes.


def load(name: str) -> ConfigDict:
    """Return the config of a recipe.

    A recipe is "digits", "digits:VARIANT", or the path of a file with `get_config(variant)`. Raises ValueError where
    there is none, or it cannot be read.
    """
    path, variant = find(name)
    try:
        spec = importlib.util.spec_from_file_location(f"_recipe_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config(variant)
    except Exception as error:  # any Python that the file holds
        kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
        raise ValueError(f"--config={name}: cannot be read ({kind}{' '.join(str(error).split())})") from error
    if not isinstance(config, ConfigDict):
        raise ValueError(f"--config={name}: get_config must return a ConfigDict, not {type(config).__name__}")
    return config


def find(name: str, folder: str = "") -> tuple[pathlib.Path, str]:
    """Return (file, variant) of a recipe, or with folder="sweeps" of a sweep. Raises ValueError where there is none."""
    stem, _, variant = name.partition(":")
    path = pathlib.Path(stem).expanduser()
    if path.suffix == ".py" or path.is_file():
        if not path.is_file():
            raise ValueError(f"{name}: there is no file {stem}")
        return path, variant
    own = recipes() / folder / f"{stem}.py"
    if not own.is_file():
        known = [file.stem for file in sorted((recipes() / folder).glob("*.py")) if file.stem != "__init__"]
        near = difflib.get_close_matches(stem, known, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name}: no recipe {stem!r}, and no such file.{hint} Recipes: {', '.join(known)}")
    return own, variant


def recipes() -> pathlib.Path:
    """Return the folder of the recipes that come with the package."""
    package = pathlib.Path(__file__).resolve().parent
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "configs"


def variant(config: ConfigDict, name: str, **others: dict[str, Any]) -> ConfigDict:
    """Return a variant of a recipe: "" unchanged, one of `others`, or "tiny" for tests.

    others: the further variants of the recipe, each the keys that it changes, such as {"network.ncsnpp.blocks": 8}.
    Raises ValueError for another name.
    """
    if name not in ("", "tiny", *others):
        known = ", ".join(f":{other}" for other in (*others, "tiny"))
        raise ValueError(f"variant {name!r}: unknown. Use no variant, or one of {known}")
    config.update_from_flattened_dict(others.get(name, {}))
    return shrink(config) if name == "tiny" else config


def shrink(config: ConfigDict) -> ConfigDict:
    """Shrink a config for tests. 8x8 images, a network of one level, a chain of 4 steps, two training steps."""
    from diffusion_jax.experiment import objectives

    continuous = not config.process.num_steps
    small = {
        "unet": {"channels": 8, "multipliers": (1,), "blocks": 1, "attention": ()},
        "ncsnpp": {"channels": 8, "multipliers": (1,), "blocks": 1, "attention": ()},
        "encoder": {"channels": 8, "multipliers": (1,), "blocks": 1, "attention": ()},
        "vae": {"channels": 8, "multipliers": (1, 1), "blocks": 1, "attention": ()},
        "gan": {"channels": 8, "multipliers": (1, 1), "blocks": 1, "attention": ()},
        "ncsn": {"channels": 8, "multipliers": (1,), "dilations": (1,)},
        "ncsnv2": {"channels": 8, "multipliers": (1,), "dilations": (1,)},
        "vdm": {"channels": 8, "blocks": 1},
        "dit": {"channels": 8, "depth": 1, "heads": 2},
        "mlp": {"width": 16, "depth": 1},
        "multiscale": {"conv_layers": 1, "features": 8, "scales": 2, "dense_width": 8, "upper_features": 8, "bumps": 2},
    }
    for name, options in small.items():
        config.network[name].update(options)
    config.data.dead_leaves.update(shape=(8, 8), radii=(1.0, 8.0), size=64)
    config.data.heartbeat.size = config.data.toy2d.size = 64
    config.data.folder.size = (8, 8)
    config.data.tfds.update(size=(8, 8), resize="center_crop")
    config.data.shape = (8, 8, config.data.shape[-1]) if config.data.shape else ()
    config.latent.workdir = ""
    config.process.num_steps = 0 if continuous else 4
    config.sampler.annealed_langevin.steps = 2
    config.sampler.update(num_steps=4 if continuous else 0, times=(), tile=4)
    config.update(train_steps=2, batch_size=8)
    config.optimizer.warmup_steps = 1
    config.checkpoint.every = config.report.every = 1
    pictures = 0 if objectives.loss_facts(config).classifier else 2
    config.report.update(samples_every=pictures, num_samples=4, sampler_steps=0)
    config.eval.update(every=2, max_examples=16, num_samples=8, passes=1)
    return config


# Sweeps.

DIGITS_CELL = {
    "train_steps": 1000,
    "ema.decays": (0.99,),
    "process.num_steps": 200,
    "schedule.linear.beta_start": 5e-4,
    "schedule.linear.beta_end": 0.1,
    "network.unet.channels": 18,
    "checkpoint.every": 500,
    "report.samples_every": 0,
    "report.tensorboard": False,
    "eval.every": 200,
}
"""The digits recipe with 0.21 M parameters and T = 200 (betas times 1000/T): minutes for a cell on two cores."""


def sweep_variant(name: str, paper: dict[str, Any], cells: dict[str, dict[str, Any]], note: str) -> dict[str, Any]:
    """Return the sweep of `cells` at a named size.

    name: "" for the size of `paper`, "digits" for a small sweep, "tiny" for tests. paper: the keys config, flags and
    evaluate of the sweep at full size. Raises ValueError for another name.
    """
    if name not in ("", "digits", "tiny"):
        raise ValueError(f"sweep variant {name!r} is unknown; use none, :digits or :tiny")
    size: dict[str, Any] = {"seeds": (0, 1, 2), "cells": cells, "note": note, **paper}
    if name == "digits":
        size |= {"config": "digits", "flags": DIGITS_CELL}
        size |= {"evaluate": ("--likelihood=vlb", "--num_samples=500")}
    if name == "tiny":
        size |= {"config": "digits:tiny", "seeds": (0, 1), "cells": dict(list(cells.items())[:2])}
        size |= {"flags": {"report.samples_every": 0, "report.tensorboard": False}}
    return size


# Overrides from the command line.


def override_all(config: ConfigDict, values: Mapping[str, str], prefix: str = "config") -> None:
    """Apply overrides {key: text} as `override` does.

    Names of choices come first, since options of your own choices depend on them.
    """
    from diffusion_jax.experiment.choices import OWN_OPTIONS

    for key in sorted(values, key=lambda key: not key.endswith(tuple(OWN_OPTIONS))):
        override(config, key, values[key], prefix)


def override(config: ConfigDict, key: str, text: str, prefix: str = "config") -> None:
    """Set one key from text, of the type of its default. prefix: the flag before the key in errors, "" for none.

    Raises ValueError, naming the flag as typed, the nearest key and the keys of its section, for an unknown key, a
    section, or text that is no such value.
    """
    start = f"--{prefix}." if prefix else "--"
    flag = f"{start}{key}"
    node, parts = config, key.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, ConfigDict) or part not in node:
            raise ValueError(f"{flag}: unknown key {'.'.join(parts[: depth + 1])!r}. {_hint(config, key, node, depth)}")
        holder, node = node, node[part]
    if isinstance(node, ConfigDict):
        example = f"{key}.name={text}" if "name" in node else f"{key}.{next(iter(node), 'KEY')}=VALUE"
        raise ValueError(f"{flag}={text}: {key!r} is a section; write {start}{example}")
    holder[parts[-1]] = parse(flag, text, node)
    if ":" in text and (len(parts) == 1 or parts[0] in choices()):
        _add_own_options(holder, parts[-1], flag)


def parse(flag: str, text: str, like: Any) -> Any:
    """Return text as a value of the type of `like`. Raises ValueError that names the flag."""
    kinds = {bool: "true or false", int: "a whole number", float: "a number", tuple: "a list such as 1,2"}
    try:
        if isinstance(like, str):
            return text
        if isinstance(like, bool):
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if isinstance(like, int):
            number = float(text) if not text.lstrip("+-").replace("_", "").isdecimal() else int(text)
            if number != int(number):
                raise ValueError
            return int(number)
        if isinstance(like, float):
            return float(text)
        return _parse_tuple(text, like)
    except (ValueError, KeyError, SyntaxError, OverflowError):
        raise ValueError(f"{flag}={text}: expected {kinds.get(type(like), type(like).__name__)}") from None


def _parse_tuple(text: str, like: tuple[Any, ...]) -> tuple[Any, ...]:
    if like and isinstance(like[0], str) and "'" not in text and '"' not in text:
        return tuple(part.strip() for part in text.strip("()[] ").split(",") if part.strip())
    text = re.sub(r"(?<![\w'\"])[a-z]\w*:[\w.]+(?!['\"])", r"'\g<0>'", text)  # name:value needs no quotes
    value = ast.literal_eval(text) if text.strip() else ()
    return _tuples(value) if isinstance(value, list | tuple) else (value,)


def _hint(config: ConfigDict, key: str, node: Any, depth: int) -> str:
    """Return the nearest keys to an unknown one, and the keys of its section."""
    place = ".".join(key.split(".")[:depth]) or "the config"
    if not isinstance(node, ConfigDict):
        return f"{place} is a value"
    nearest = _nearest(config, key)
    hint = f"Did you mean {' or '.join(nearest)}? " if nearest else ""
    return f"{hint}Keys of {place}: {', '.join(node)}"


def _nearest(config: ConfigDict, key: str) -> list[str]:
    """Return the keys that an unknown one may mean, at most three.

    Its sections are mended where they are misspelt. Within the first of them, in this order: the same key, ALIASES, the
    same last part, a similar last part; options of the choice that the key names, or the config makes, before others.
    """
    *sections, last = key.split(".")
    place, node = _sections(config, sections)
    known = [name for name, _ in flatten(config) if not place or name.startswith(f"{place[0]}.")]
    used = in_use(config)
    first = [name for name in known if name in used]
    if len(place) > 1:
        first = [name for name in known if name.startswith(f"{'.'.join(place)}.") or name.count(".") == 1]
    of_guidance = [name for name in used if name.startswith("guidance.") and place[:1] == ["sampler"]]
    inside = [".".join([*place, name]) for name in node]

    def last_of(name: str) -> str:
        return name.rpartition(".")[2]

    def similar(names: list[str]) -> list[str]:
        near = [] if last in ALIASES else difflib.get_close_matches(last, map(last_of, names), 1)
        return list(dict.fromkeys(name for name in names if last_of(name) in near))

    found = (
        [name for name in inside if last_of(name) == last and len(place) == len(sections)],
        _aliased(last, first, place[0] if place else ""),
        _aliased(last, of_guidance, "guidance"),
        *([name for name in names if last_of(name) == last] for names in (first, known)),
        *(similar(names) for names in ([*inside, *first], known)),
    )
    return next((names[:3] for names in found if names), [])


def _sections(config: ConfigDict, sections: list[str]) -> tuple[list[str], ConfigDict]:
    """Return the existing or nearest sections, and the last of them itself."""
    place, node = [], config
    for part in sections:
        inner = [name for name in node if isinstance(node[name], ConfigDict)]
        near = [part] if part in inner else difflib.get_close_matches(part, inner, 1, cutoff=0.8)
        if not near:
            break
        place.append(near[0])
        node = node[near[0]]
    return place, node


def _aliased(last: str, names: list[str], section: str) -> list[str]:
    """Return the `names` that an alias means.

    Without a section these are top-level keys, or keys of the only section that has some.
    """
    found = [name for pattern in ALIASES.get(last, ()) for name in fnmatch.filter(names, pattern)]
    if not section:
        found = [name for name in found if "." not in name] or found
        return found if len({name.partition(".")[0] for name in found}) == 1 else []
    return found


# Stored configs.


def merge(stored: Mapping[str, Any]) -> ConfigDict:
    """Return a stored config over the defaults it was made with.

    These are today's defaults, except for FORMER. Renamed keys are translated. Raises ValueError for a key that is
    unknown, or gone and not at the default it had.
    """
    from diffusion_jax.experiment.choices import OWN_OPTIONS

    config = defaults()
    values = dict(FORMER)
    for old, value in flatten(stored):
        key, spelt = RENAMED.get(old, (old, {}))
        values[key] = spelt.get(value, value) if not isinstance(value, tuple) else value
    for key in sorted(values, key=lambda key: not key.endswith(tuple(OWN_OPTIONS))):
        value = values[key]
        if key in GONE:
            if value != GONE[key]:
                raise ValueError(f"stored config: {key}={value!r} has no counterpart in this version; it was removed")
            continue
        section, _, rest = key.partition(".")
        own = {options: choice for choice, options in OWN_OPTIONS.items()}.get(rest.partition(".")[0], "")
        if own and ":" in str(config.get(section, {}).get(own, "")):
            put(config, key, value)
            continue
        if key not in _flat_defaults():
            near = difflib.get_close_matches(key, _flat_defaults(), 1)
            hint = f" (nearest: {near[0]})" if near else ""
            raise ValueError(f"stored config: unknown key {key!r}{hint}; a newer version of diffusion_jax may have it")
        put(config, key, value)
    return config


def plain(config: Mapping[str, Any] | ConfigDict) -> dict[str, Any]:
    """Return a config as nested dicts of JSON's types, with objects by name."""

    def value(item: Any) -> Any:
        if isinstance(item, Mapping | ConfigDict):
            return {key: value(inner) for key, inner in item.items()}
        return getattr(item, "spelling", item)

    nested: dict[str, Any] = value(config)
    return nested


def in_use(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flat config without the options of choices that are not made."""
    from diffusion_jax.experiment.choices import OWN_OPTIONS

    flat = dict(flatten(config))

    def used(key: str) -> bool:
        section, _, rest = key.partition(".")
        name, _, option = rest.partition(".")
        if not option or section not in (*choices(), "guidance"):
            return True
        chosen = {flat.get(f"{section}.{choice}") for choice in OWN_OPTIONS}
        return name in chosen or name in OWN_OPTIONS.values()

    return {key: value for key, value in flat.items() if used(key)}


# Parts of the above.


def _add_own_options(section: ConfigDict, key: str, flag: str) -> None:
    """Add the options of a `module:function` to its section, with their defaults."""
    from diffusion_jax.experiment.choices import OWN_OPTIONS, own, signature_options

    if key in OWN_OPTIONS:
        with section.unlocked():
            section[OWN_OPTIONS[key]] = ConfigDict(signature_options(own(flag, section[key])))


def put(config: ConfigDict, key: str, value: Any) -> None:
    """Set a dotted key, sections made as needed, a change of type allowed."""
    *sections, last = key.split(".")
    node = config
    for section in sections:
        if section not in node:
            with node.unlocked():
                node[section] = ConfigDict()
        node = node[section]
    with node.unlocked(), node.ignore_type():
        node[last] = value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
