"""Makes diffusers_unet.npz: what the U-Net of google/ddpm-cifar10-32 computes in diffusers, with drawn weights.

Made with diffusers 0.35.1, PyTorch 2.13.0 (CPU), NumPy 2.4.6, Python 3.11; the tests only read the result:

    pip install torch==2.13.0 diffusers==0.35.1 && python make_diffusers_unet.py

The configuration is that of the published model; the weights are not, they come from `draw`, which the test calls as
well. In the file, float64: x [3,32,32,3]; time [3]; output [3,32,32,3], computed in float64 throughout; and
output_float32_time, the same with diffusers as it is, whose sinusoids of time are float32.
"""

import math
import pathlib

import numpy as np

CONFIG = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (128, 256, 256, 256),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-6,
    "downsample_padding": 0,
    "freq_shift": 1,
    "flip_sin_to_cos": False,
    "time_embedding_type": "positional",
    "center_input_sample": False,
    "mid_block_scale_factor": 1,
    "attention_head_dim": None,
}


def draw(shapes):
    """Weights by diffusers' names for {name: shape}, float64, one generator over the sorted names, none of them zero.

    Kernels have variance 1 / fan-in, biases standard deviation 0.1, the gains of norms mean 1 and deviation 0.1.
    """
    random = np.random.RandomState(0)
    weights = {}
    for name in sorted(shapes):
        value = random.normal(size=shapes[name])
        if name.endswith("bias"):
            value *= 0.1
        elif value.ndim == 1:
            value = 1 + 0.1 * value
        else:
            value /= math.sqrt(math.prod(shapes[name][1:]))
        weights[name] = value
    return weights


def main():
    import torch
    from diffusers import UNet2DModel
    from diffusers.models import embeddings

    net = UNet2DModel(**CONFIG).double().eval()
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    net.load_state_dict({name: torch.from_numpy(value) for name, value in draw(shapes).items()})

    x = np.random.RandomState(1).normal(size=(3, 32, 32, 3))
    time = np.array([0.0, 17.0, 999.0])

    def run():
        with torch.no_grad():
            sample = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
            return net(sample, torch.from_numpy(time)).sample.numpy().transpose(0, 2, 3, 1).copy()

    as_it_is = run()

    def sinusoids(timesteps, embedding_dim, flip_sin_to_cos, downscale_freq_shift, scale=1, max_period=10000):
        assert not flip_sin_to_cos and downscale_freq_shift == 1 and scale == 1 and max_period == 10000
        half = embedding_dim // 2
        frequencies = torch.tensor([max_period ** (-k / (half - 1)) for k in range(half)], dtype=torch.float64)
        angles = timesteps.double()[:, None] * frequencies[None, :]
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    embeddings.get_timestep_embedding = sinusoids
    output = run()
    print("scale", output.std(), "difference of the sinusoids' precision", abs(output - as_it_is).max())
    path = pathlib.Path(__file__).parent / "diffusers_unet.npz"
    np.savez_compressed(path, x=x, time=time, output=output, output_float32_time=as_it_is)


if __name__ == "__main__":
    main()
