"""Read and write a saved model of diffusers without PyTorch.

The model is a folder of JSON and safetensors files.

config.json                              the options of a UNet2DModel, see diffusers_options.py
diffusion_pytorch_model.safetensors      its weights, by the names of diffusers.py
scheduler_config.json                    the chain, as a DDPMScheduler
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from diffusion_jax import files
from diffusion_jax.interop.diffusers_options import CONFIG, SCHEDULER

WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def find(path: str | os.PathLike[str]) -> pathlib.Path:
    """Find the folder of the UNet: `path`, or unet/ in the folder of a pipeline. Raises FileNotFoundError."""
    for folder in (pathlib.Path(path) / "unet", pathlib.Path(path)):
        if (folder / CONFIG).is_file():
            return folder
    raise FileNotFoundError(
        f"--path={path}: neither {CONFIG} nor unet/{CONFIG} in it. Use the folder of a saved UNet2DModel"
    )


def read_tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Read the tensors by diffusers' names, float32. Raises FileNotFoundError, and ValueError for other formats."""
    file = folder / WEIGHTS
    if not file.is_file():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        if pickles:
            raise ValueError(
                f"{folder}: {pickles[0]} is a pickle, which can run code and is not loaded. Save the model "
                f"as {WEIGHTS} (in diffusers: save_pretrained(DIR, safe_serialization=True))"
            )
        others = ", ".join(sorted(path.name for path in folder.glob("*.safetensors*")))
        found = f" (got {others}). Save them as one file without a variant" if others else ""
        raise FileNotFoundError(f"{folder}: has no {WEIGHTS}{found}")
    try:
        with safetensors.safe_open(file, framework="np") as opened:
            names = list(opened.keys())
            kinds = {name: opened.get_slice(name).get_dtype() for name in names}
            for name, kind in kinds.items():
                if kind not in ("F32", "F16", "BF16"):
                    raise ValueError(f"{file}: {name} has dtype {kind}. Convert the weights to F32, F16 or BF16")
            return {name: opened.get_tensor(name).astype(np.float32) for name in names}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{file}: cannot be read as safetensors: {error}. Save the weights again") from error


def check_vacant(path: str | os.PathLike[str]) -> None:
    """Raise ValueError unless `path` is free or an empty folder.

    PermissionError if it cannot be written to."""
    path = pathlib.Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"--path={path}: exists and is not an empty folder. Use another path, or remove it")
    files.check_folder(path, "--path=")


def write(
    path: str | os.PathLike[str],
    unet: Mapping[str, Any],
    scheduler: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
) -> None:
    """Write the three files into a new folder, atomically. Raises as `check_vacant` does, and OSError."""
    check_vacant(path)
    path = pathlib.Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as folder:
        folder.mkdir()
        (folder / CONFIG).write_text(json.dumps(unet, indent=2) + "\n")
        (folder / SCHEDULER).write_text(json.dumps(scheduler, indent=2) + "\n")
        safetensors.numpy.save_file(dict(tensors), folder / WEIGHTS, {"format": "pt"})
