"""Models saved by others: those of tests/golden/diffusers_models.npz as diffusers saves them, and TF1 checkpoints."""

import functools
import json
import pathlib
import runpy

import numpy as np
import safetensors.numpy
from flax import traverse_util

from diffusion_jax.interop import ddpm_tf1, diffusers, diffusers_folder, diffusers_options, fit

GOLDEN = pathlib.Path(__file__).parent / "golden"
MODELS = ("two_resolutions", "oblong", "grey")
CHAINS = ("linear", "scaled_linear", "sigmoid", "squaredcos_cap_v2")


@functools.cache
def golden():
    """All arrays of the file by name."""
    with np.load(GOLDEN / "diffusers_models.npz") as file:
        return dict(file)


def write(folder, name="oblong", chain=None, **changes):
    """Write the model `name` as a folder of diffusers and return the folder.

    The weights are drawn as the script drew them. Keys of config.json are changed afterwards, see `change`.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(str(golden()[f"{name}/config"]))
    unet, shape = diffusers_options.read_unet(folder)
    layouts = diffusers.from_flax(drawn_params(unet, shape), unet, shape)
    draw = runpy.run_path(str(GOLDEN / "make_diffusers_unet.py"))["draw"]
    drawn = draw({key: value.shape for key, value in layouts.items()})
    tensors = {key: value.astype(np.float32) for key, value in drawn.items()}
    safetensors.numpy.save_file(tensors, folder / diffusers_folder.WEIGHTS, {"format": "pt"})
    change(folder / "config.json", **changes)
    if chain:
        (folder / "scheduler_config.json").write_text(str(golden()[f"{chain}/chain"]))
    return folder


def change(file, **changes):
    """Change keys of a JSON file; the value ... leaves a key out."""
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def drawn_params(unet, shape, seed=0):
    """Parameters, none of them zero."""
    random = np.random.RandomState(seed)
    shapes = fit.shapes(unet, shape)
    return traverse_util.unflatten_dict({path: random.normal(size=s).astype(np.float32) for path, s in shapes.items()})


def tf1_variables(params, averages):
    """All that a checkpoint of Ho's code holds, by name."""
    leaves = {"kernel": "W", "scale": "gamma"}
    variables = {"global_step": np.int64(7), "beta1_power": np.float32(0.5)}
    for path, value in traverse_util.flatten_dict(params).items():
        norm = path[-2].startswith("norm")
        name = "/".join(["model", *path[:-1], leaves.get(path[-1], "beta" if norm else "b")])
        average = traverse_util.flatten_dict(averages)[path]
        variables |= {name: value, f"{name}/Adam": 0 * value, f"{name}/Adam_1": 0 * value}
        variables[name + ddpm_tf1.AVERAGE] = average
    return variables


def write_tf1(prefix, variables):
    """Write variables in the format of TF1's Saver and return the prefix."""
    import tensorflow as tf

    names = sorted(variables)
    tensors = [tf.constant(variables[name]) for name in names]
    tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors)
    return str(prefix)
