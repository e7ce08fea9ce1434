"""Makes edm_augmentation.npz: what EDM's augmentation does to images, for transforms of our choice.

Made with the public code of Karras et al. 2022 (github.com/NVlabs/edm, commit 008a4e5), PyTorch 2.14.1 (CPU), NumPy
2.4.6, Python 3.11; the tests only read the result:

    pip install torch==2.14.1 requests && PYTHONPATH=PATH_OF_EDM python make_edm_augmentation.py

All is computed in float64, the code's float32 constants too; its random numbers are replaced by those of `inputs`. In
the file: output [8,12,10,3] and label [8,9].
"""

import pathlib

import numpy as np


def inputs():
    """Images [8,12,10,3], and the fields of `augmentation.Transform`: each alone in an image, all in the last two."""
    random = np.random.RandomState(2)
    x = random.uniform(-1, 1, size=(8, 12, 10, 3))
    mirror, shift = np.zeros((8, 2)), np.zeros((8, 2))
    scale, angle, stretch, axis = np.zeros((4, 8))
    mirror[[0, 1], [0, 1]] = 1
    scale[2], angle[3], stretch[4], shift[5] = -1.3, 2.0, 1.7, (0.9, -0.6)
    axis[4] = 0.4
    mirror[6:] = [[1, 0], [1, 1]]
    scale[6:], angle[6:], stretch[6:], axis[6:] = (0.8, -0.4), (-2.6, 0.3), (-0.7, 1.1), (2.2, -1.0)
    shift[6:] = [[-0.3, 0.5], [0.4, 0.2]]
    return x, {"mirror": mirror, "scale": scale, "angle": angle, "stretch": stretch, "axis": axis, "shift": shift}


class Replaced:
    """A module with some of its functions and types replaced."""

    def __init__(self, module, **replaced):
        self.__dict__ |= {"module": module, **replaced}

    def __getattr__(self, name):
        return getattr(self.module, name)


def main():
    import torch
    from training import augment

    x, done = inputs()
    torch.set_default_dtype(torch.float64)
    does = np.zeros(len(x))  # below every probability
    around = {name: (done[name] / np.pi + 1) / 2 for name in ("angle", "axis")}
    drawn = {
        "randint": [done["mirror"][:, 0], done["mirror"][:, 1]],
        "randn": [done["scale"], done["stretch"], done["shift"].T],
        "rand": [does, does, does, around["angle"], does, around["axis"], does, does, does],
    }

    def drawing(name):
        def next_of(*arguments, device=None):
            return torch.from_numpy(drawn[name].pop(0).copy()).reshape(arguments[-1])

        return next_of

    augment.torch = Replaced(torch, float32=torch.float64, **{name: drawing(name) for name in drawn})
    augment.np = Replaced(np, float32=np.float64)
    pipe = augment.AugmentPipe(p=0.12, xflip=1e8, yflip=1, scale=1, rotate_frac=1, aniso=1, translate_frac=1)
    output, label = pipe(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    assert not any(drawn.values())
    found = {"output": output.numpy().transpose(0, 2, 3, 1), "label": label.numpy()}
    for name, value in found.items():
        print(name, value.dtype, "scale", value.std())
    np.savez_compressed(pathlib.Path(__file__).parent / "edm_augmentation.npz", **found)


if __name__ == "__main__":
    main()
