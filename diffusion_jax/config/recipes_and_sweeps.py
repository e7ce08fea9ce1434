"""Find and load recipes and sweeps, and make their variants."""

import difflib
import importlib.util
import pathlib
from typing import Any

from ml_collections import ConfigDict


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
    package = pathlib.Path(__file__).resolve().parent.parent
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
    """Shrink a config for tests. 8x8 images, a network of one level, a chain of 4 steps, two training steps.

    The images of IDX files keep their size.
    """
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
    if config.data.name == "idx":
        config.data.shape = ()
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
