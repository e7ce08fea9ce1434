"""Makes diffusers_models.npz: what three small UNet2DModels and the chains of DDPMScheduler compute in diffusers.

Made with diffusers 0.42.1, PyTorch 2.15.0 (CPU), NumPy 2.4.6, Python 3.11; the tests only read the result:

    pip install torch==2.15.0 diffusers==0.42.1 && python make_diffusers_models.py

The weights come from `draw` of make_diffusers_unet.py, in float32, which the test calls as well. In the file, for each
name of MODELS, float32: <name>/x and <name>/output [2,H,W,C], <name>/time [2], and <name>/config, the config.json that
diffusers saved; for each name of CHAINS: <name>/chain, the scheduler_config.json, and <name>/alphas_cumprod [50].
"""

import pathlib
import runpy
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).parent
HO = {
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
MODELS = {
    "two_resolutions": {  # two heads
        "sample_size": 16,
        "block_out_channels": (8, 16, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 8,
        "norm_num_groups": 4,
    },
    "oblong": {  # groups of one and two channels
        "sample_size": (8, 12),
        "block_out_channels": (8, 16),
        "layers_per_block": 2,
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
        "attention_head_dim": None,
        "norm_num_groups": 8,
    },
    "grey": {  # three heads, in the middle alone
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (8, 8, 24),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "UpBlock2D"),
        "attention_head_dim": 8,
        "norm_num_groups": 2,
        "dropout": 0.1,
    },
}
CHAINS = {
    "linear": {"beta_schedule": "linear", "beta_end": 0.1, "variance_type": "fixed_large"},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 1e-3, "prediction_type": "v_prediction"},
    "sigmoid": {"beta_schedule": "sigmoid", "beta_start": 1e-3, "prediction_type": "sample"},
    "squaredcos_cap_v2": {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False},
}


def main():
    import torch
    from diffusers import DDPMScheduler, UNet2DModel

    draw = runpy.run_path(str(HERE / "make_diffusers_unet.py"))["draw"]
    arrays = {}
    for name, options in MODELS.items():
        net = UNet2DModel(**HO, **options).eval()
        shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
        net.load_state_dict({key: torch.from_numpy(value.astype(np.float32)) for key, value in draw(shapes).items()})
        size = options["sample_size"]
        height, width = size if isinstance(size, tuple) else (size, size)
        shape = (2, height, width, options.get("in_channels", 3))
        x, time = np.random.RandomState(1).normal(size=shape).astype(np.float32), np.array([0, 999], np.float32)
        with torch.no_grad():
            output = net(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), torch.from_numpy(time)).sample
        output = output.numpy().transpose(0, 2, 3, 1)
        print(name, "parameters", sum(p.numel() for p in net.parameters()), "scale", output.std())
        with tempfile.TemporaryDirectory() as folder:
            net.save_config(folder)
            config = (pathlib.Path(folder) / "config.json").read_text()
        arrays |= {f"{name}/x": x, f"{name}/time": time, f"{name}/output": output, f"{name}/config": np.array(config)}
    for name, options in CHAINS.items():
        scheduler = DDPMScheduler(num_train_timesteps=50, **options)
        with tempfile.TemporaryDirectory() as folder:
            scheduler.save_config(folder)
            config = (pathlib.Path(folder) / "scheduler_config.json").read_text()
        arrays |= {f"{name}/chain": np.array(config), f"{name}/alphas_cumprod": scheduler.alphas_cumprod.numpy()}
    np.savez_compressed(HERE / "diffusers_models.npz", **arrays)


if __name__ == "__main__":
    main()
