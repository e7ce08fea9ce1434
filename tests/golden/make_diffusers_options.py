"""Makes diffusers_options.npz: what small UNet2DModels with diffusers' default options compute, in float64.

Made with diffusers 0.42.1, PyTorch 2.14.1 (CPU), Python 3.11; the tests only read the result:

    pip install torch==2.14.1 diffusers==0.42.1 && python make_diffusers_options.py

The weights come from `draw` of make_diffusers_unet.py, which the test calls as well. In the file, for each name of
MODELS: <name>/x [2,H,W,C], <name>/time [2], <name>/label [2] where the model has classes, <name>/output, float64
throughout (the sinusoids of time too), and <name>/config, the config.json that diffusers saved.
"""

import pathlib
import runpy
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).parent
MODELS = {
    "example": {  # the model of the unconditional training example, with fewer channels and layers
        "sample_size": 32,
        "layers_per_block": 1,
        "block_out_channels": (16, 16, 32, 32, 64, 64),
        "down_block_types": (*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4),
        "norm_num_groups": 8,
    },
    "classes": {  # learned variance, and two and four heads
        "sample_size": (8, 12),
        "in_channels": 1,
        "out_channels": 2,
        "layers_per_block": 1,
        "block_out_channels": (16, 32),
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
        "norm_num_groups": 4,
        "num_class_embeds": 5,
    },
}


def main():
    import torch
    from diffusers import UNet2DModel
    from diffusers.models import embeddings

    def sinusoids(time, dim, flip_sin_to_cos, downscale_freq_shift, scale=1, max_period=10000):
        assert scale == 1
        half = dim // 2
        frequencies = max_period ** (-torch.arange(half, dtype=torch.float64) / (half - downscale_freq_shift))
        angles = time.double()[:, None] * frequencies
        waves = [angles.sin(), angles.cos()]
        return torch.cat(waves[::-1] if flip_sin_to_cos else waves, dim=1)

    embeddings.get_timestep_embedding = sinusoids
    draw = runpy.run_path(str(HERE / "make_diffusers_unet.py"))["draw"]
    arrays = {}
    for name, options in MODELS.items():
        net = UNet2DModel(**options).double().eval()
        shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
        net.load_state_dict({key: torch.from_numpy(value) for key, value in draw(shapes).items()})
        size = options["sample_size"]
        height, width = size if isinstance(size, tuple) else (size, size)
        x = np.random.RandomState(1).normal(size=(2, height, width, options.get("in_channels", 3)))
        arrays[f"{name}/x"], arrays[f"{name}/time"] = x, np.array([0.0, 999.0])
        label = None
        if "num_class_embeds" in options:
            arrays[f"{name}/label"] = np.array([0, 4])
            label = torch.tensor([0, 4])
        with torch.no_grad():
            output = net(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), torch.tensor([0.0, 999.0]), label).sample
        arrays[f"{name}/output"] = output.numpy().transpose(0, 2, 3, 1)
        print(name, "parameters", sum(p.numel() for p in net.parameters()), "scale", output.std().item())
        with tempfile.TemporaryDirectory() as folder:
            net.save_config(folder)
            arrays[f"{name}/config"] = np.array((pathlib.Path(folder) / "config.json").read_text())
    np.savez_compressed(HERE / "diffusers_options.npz", **arrays)


if __name__ == "__main__":
    main()
