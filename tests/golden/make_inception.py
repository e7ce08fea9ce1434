"""Makes inception.npz: what the FID variant of InceptionV3 computes in torch-fidelity, with drawn weights.

Made with torch-fidelity 0.4.0, PyTorch 2.13.0 (CPU), NumPy 2.4.6, Python 3.11; the tests only read the result:

    pip install torch==2.13.0 torch-fidelity==0.4.0 && python make_inception.py

The names and shapes of the tensors are those of the published weights; their values are not, they come from `draw`,
which the test calls as well. In the file: shapes (a JSON text of name -> shape); images uint8 [3,20,28,3]; features
[3,2048] and logits [3,1008] (those without the bias), computed in float32; resized [60,60], of the first image's first
channel, every fifth row and column after resizing.
"""

import json
import math
import pathlib
import tempfile

import numpy as np


def draw(shapes):
    """Tensors by the names of PyTorch for {name: shape}, float32, one generator over the sorted names.

    Kernels have variance 2 / fan-in; gains and variances lie about 1, biases and means about 0.
    """
    random = np.random.RandomState(0)
    tensors = {}
    for name in sorted(shapes):
        value = random.standard_normal(size=shapes[name])
        if name.endswith(("bias", "running_mean")):
            value *= 0.1
        elif name.endswith("running_var"):
            value = np.exp(0.3 * value)
        elif value.ndim == 1:
            value = 1 + 0.1 * value
        else:
            value *= math.sqrt(2 / math.prod(shapes[name][1:]))
        tensors[name] = value.astype(np.float32)
    return tensors


def images():
    """uint8 [3,20,28,3]: noise, a slope, and stripes."""
    random = np.random.RandomState(1)
    noise = random.randint(0, 256, size=(20, 28, 3))
    slope = np.broadcast_to(np.linspace(0, 255, 28)[None, :, None], (20, 28, 3))
    stripes = 255 * (np.arange(20)[:, None, None] // 3 % 2) * np.array([1.0, 0.5, 0.2]) * np.ones((20, 28, 1))
    return np.stack([noise, slope, stripes]).astype(np.uint8)


def main():
    import torch

    torchvision = torch.library.Library("torchvision", "DEF")  # its own library wants CUDA; nothing of it is called
    for name in ("nms", "qnms"):
        torchvision.define(f"{name}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
    from torch_fidelity import feature_extractor_inceptionv3 as inception
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x as resize

    captured = {}

    def load(self, state_dict):  # the constructor reads weights from a file: the first time, only to learn the shapes
        captured.update({name: tuple(value.shape) for name, value in self.state_dict().items()})
        return torch.nn.Module.load_state_dict(self, state_dict or self.state_dict())

    inception.FeatureExtractorInceptionV3.load_state_dict = load
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.save({}, file.name)
        build = inception.FeatureExtractorInceptionV3
        options = {"feature_extractor_weights_path": file.name}
        net = build("inception", ["2048", "logits_unbiased"], **options)
    shapes = {name: shape for name, shape in captured.items() if not name.endswith("num_batches_tracked")}
    net.load_state_dict(net.state_dict() | {name: torch.from_numpy(value) for name, value in draw(shapes).items()})

    nchw = torch.from_numpy(images().transpose(0, 3, 1, 2).copy())
    features, logits = (value.numpy() for value in net(nchw))
    resized = resize(nchw[:1].float(), size=(299, 299), align_corners=False)[0, 0, ::5, ::5].numpy()
    print("features", features.mean(), features.std(0).mean(), "logits", logits.std())
    arrays = {
        "images": images(),
        "features": features,
        "logits": logits,
        "resized": resized,
    }
    path = pathlib.Path(__file__).parent / "inception.npz"
    np.savez_compressed(path, shapes=json.dumps(shapes), **arrays)
    print(path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
