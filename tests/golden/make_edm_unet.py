"""Makes edm_unet.npz: what EDM's SongUNet computes as DDPM++ and as NCSN++, small, with drawn weights.

Made with the public code of Karras et al. 2022 (github.com/NVlabs/edm, commit 008a4e5), PyTorch 2.13.0 (CPU), NumPy
2.4.6, Python 3.11; the tests only read the result:

    pip install torch==2.13.0 requests pillow && PYTHONPATH=PATH_OF_EDM:REPOSITORY python make_edm_unet.py

The weights come from `make_diffusers_unet.draw`, inputs from `inputs`; the test calls both. All is computed in float64,
for which the code's float32 attention and sinusoids are replaced by the same formulas in float64, and the Fourier
frequencies, which the code draws anew for each model, by ours. In the file: output_ddpmpp and output_ncsnpp
[2,8,8,3], and precondition_x0 [2,8,8,3], the whole denoiser D(x; sigma) around the former.
"""

import pathlib

import numpy as np
from make_diffusers_unet import draw

COMMON = {
    "img_resolution": 8,
    "in_channels": 3,
    "out_channels": 3,
    "label_dim": 4,
    "augment_dim": 9,
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "dropout": 0.1,
}
CONFIGS = {
    "ddpmpp": COMMON,
    "ncsnpp": COMMON
    | {
        "embedding_type": "fourier",
        "channel_mult_noise": 2,
        "encoder_type": "residual",
        "resample_filter": [1, 3, 3, 1],
    },
}
SIGMA_DATA = 0.5


def inputs():
    """x [2,8,8,3], sigma [2], label [2] and augment [2,9], of which the network is told log(sigma)/4."""
    random = np.random.RandomState(1)
    sigma = np.array([0.05, 7.0])
    x = random.normal(size=(2, 8, 8, 3)) * np.hypot(1, sigma)[:, None, None, None]
    return x, sigma, np.array([2, 0]), random.normal(size=(2, 9))


def main():
    import torch
    from training import networks

    from diffusion_jax.networks.ncsnpp import frequencies

    class Attention:
        @staticmethod
        def apply(q, k):
            return torch.einsum("ncq,nck->nqk", q, k / np.sqrt(k.shape[1])).softmax(dim=2)

    def sinusoids(self, x):
        exponents = torch.arange(self.num_channels // 2, dtype=torch.float64) / (self.num_channels // 2 - 1)
        angles = x.ger((1 / self.max_positions) ** exponents)
        return torch.cat([angles.cos(), angles.sin()], dim=1)

    networks.AttentionOp = Attention
    x, sigma, label, augment = inputs()
    images = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    hot, augment = torch.eye(4, dtype=torch.float64)[torch.from_numpy(label)], torch.from_numpy(augment)
    noise_labels = torch.from_numpy(np.log(sigma) / 4)
    found = {}
    for name, config in CONFIGS.items():
        net = networks.SongUNet(**config).double().eval()
        assert net.map_noise.__class__.__name__ in ("PositionalEmbedding", "FourierEmbedding")
        if name == "ddpmpp":
            assert net.map_noise.endpoint and net.map_noise.max_positions == 10000
            net.map_noise.forward = lambda value, embed=net.map_noise: sinusoids(embed, value)
        else:
            net.map_noise.freqs.copy_(torch.from_numpy(frequencies(16, 16.0)))
        parameters = dict(net.named_parameters())
        drawn = draw({key: tuple(value.shape) for key, value in parameters.items()})
        with torch.no_grad():
            for key, value in parameters.items():
                value.copy_(torch.from_numpy(drawn[key]))
            found[f"output_{name}"] = net(images, noise_labels, hot, augment).numpy().transpose(0, 2, 3, 1)
            if name == "ddpmpp":
                around = networks.EDMPrecond(8, 3, label_dim=4, sigma_data=SIGMA_DATA, model_type="SongUNet")
                float32, torch.float32 = torch.float32, torch.float64  # the wrapper casts to float32
                around.model = net
                x0 = around(images, torch.from_numpy(sigma), hot, augment_labels=augment)
                torch.float32 = float32
                found["precondition_x0"] = x0.numpy().transpose(0, 2, 3, 1)
    for name, value in found.items():
        print(name, value.dtype, "scale", value.std())
    np.savez_compressed(pathlib.Path(__file__).parent / "edm_unet.npz", **found)


if __name__ == "__main__":
    main()
