"""Makes ncsn.npz: what the networks of Song and Ermon 2019 and 2020 compute, small, with drawn weights.

Made with the public code of both (github.com/ermongroup/ncsn, commit 7f27f4a, and ermongroup/ncsnv2, commit
1bcea03), PyTorch 2.13.0 (CPU), NumPy 2.4.6, Python 3.11; the tests only read the result:

    pip install torch==2.13.0 && python make_ncsn.py PATH_OF_NCSN PATH_OF_NCSNV2

The weights come from `weights`, inputs from `inputs`; the test calls both. In the file, float64 throughout: ncsn and
ncsnv2 [2,8,8,3], the scores of images in [0, 1] at the levels that `inputs` names, the first having the most noise.
"""

import pathlib
import sys
from types import SimpleNamespace

import numpy as np
from make_diffusers_unet import draw

CHANNELS, LEVELS, SIGMAS = 8, 5, (0.01, 2.0)


def inputs():
    """Noisy images [2,8,8,3] around [0, 1], and their levels [2]."""
    random = np.random.RandomState(1)
    level = np.array([3, 0])
    sigma = np.geomspace(*SIGMAS[::-1], LEVELS)[level]
    return random.uniform(size=(2, 8, 8, 3)) + sigma[:, None, None, None] * random.normal(size=(2, 8, 8, 3)), level


def weights(shapes):
    """As `draw`; what is added to and multiplied with in norms by level lies around 1, as it does without levels."""
    return {name: value + ("embed" in name) for name, value in draw(shapes).items()}


def main():
    import torch

    torch.set_default_dtype(torch.float64)  # or the sums of MSF blocks are float32
    data = SimpleNamespace(channels=3, image_size=8, logit_transform=False, rescaled=False)
    model = SimpleNamespace(
        ngf=CHANNELS, num_classes=LEVELS, sigma_begin=SIGMAS[1], sigma_end=SIGMAS[0], sigma_dist="geometric",
        normalization="InstanceNorm++", nonlinearity="elu", spec_norm=False,
    )  # fmt: skip
    config = SimpleNamespace(data=data, model=model, device="cpu")
    x, level = inputs()
    images, level = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), torch.from_numpy(level)
    found = {}
    for name, path in zip(("ncsn", "ncsnv2"), sys.argv[1:], strict=True):
        sys.path.insert(0, path)
        for module in [module for module in sys.modules if module.split(".")[0] == "models"]:
            del sys.modules[module]
        if name == "ncsn":
            from models.cond_refinenet_dilated import CondRefineNetDilated as Network
        else:
            from models.ncsnv2 import NCSNv2 as Network
        net = Network(config).double().eval()
        if name == "ncsnv2":  # the code rounds them to float32
            net.sigmas = torch.from_numpy(np.geomspace(*SIGMAS[::-1], LEVELS))
        parameters = dict(net.named_parameters())
        drawn = weights({key: tuple(value.shape) for key, value in parameters.items()})
        with torch.no_grad():
            for key, value in parameters.items():
                value.copy_(torch.from_numpy(drawn[key]))
            found[name] = net(images, level).numpy().transpose(0, 2, 3, 1)
        config.model.ngf, config.model.num_classes = 128, 10 if name == "ncsn" else 232
        print(name, "scale", found[name].std(), "at full size", sum(p.numel() for p in Network(config).parameters()))
        config.model.ngf, config.model.num_classes = CHANNELS, LEVELS
        sys.path.remove(path)
    np.savez_compressed(pathlib.Path(__file__).parent / "ncsn.npz", **found)


if __name__ == "__main__":
    main()
