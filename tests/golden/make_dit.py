"""Makes dit.npz: what the public DiT computes, small, with drawn weights.

Made with the public code of Peebles and Xie 2023 (github.com/facebookresearch/DiT, commit ed81ce2), timm 1.0.31,
PyTorch 2.14.1 (CPU), NumPy 2.4.6, Python 3.11; the tests only read the result:

    pip install torch==2.14.1 timm==1.0.31 && PYTHONPATH=PATH_OF_DIT python make_dit.py

The weights come from `make_diffusers_unet.draw`, inputs from `inputs`; the test calls both. All is computed in float64,
for which the code's float32 sinusoids of time and positions are replaced by the same formulas in float64. In the file:
output [3,8,8,4], of 2 channels and as many for the variance.
"""

import math
import pathlib

import numpy as np
from make_diffusers_unet import draw

CONFIG = {"input_size": 8, "patch_size": 2, "in_channels": 2, "hidden_size": 24, "depth": 2, "num_heads": 3}
CLASSES = 5


def inputs():
    """x [3,8,8,2], time [3] and label [3], the last of which is the row of no label."""
    x = np.random.RandomState(1).normal(size=(3, 8, 8, 2))
    return x, np.array([0.0, 17.5, 999.0]), np.array([4, 0, CLASSES])


def main():
    import models
    import torch

    def sinusoids(t, dim, max_period=10000):
        frequencies = torch.exp(-math.log(max_period) * torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
        angles = t[:, None] * frequencies[None]
        return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)

    models.TimestepEmbedder.timestep_embedding = staticmethod(sinusoids)
    x, time, label = inputs()
    net = models.DiT(num_classes=CLASSES, **CONFIG).double().eval()
    parameters = {name: value for name, value in net.named_parameters() if value.requires_grad}
    drawn = draw({name: tuple(value.shape) for name, value in parameters.items()})
    positions = models.get_2d_sincos_pos_embed(CONFIG["hidden_size"], CONFIG["input_size"] // CONFIG["patch_size"])
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(torch.from_numpy(drawn[name]))
        net.pos_embed.copy_(torch.from_numpy(positions)[None])
        images = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
        output = net(images, torch.from_numpy(time), torch.from_numpy(label)).numpy().transpose(0, 2, 3, 1).copy()
    print(output.dtype, "scale", output.std())
    np.savez_compressed(pathlib.Path(__file__).parent / "dit.npz", output=output)


if __name__ == "__main__":
    main()
