"""Makes metrics.json: what pytorch-fid and torch-fidelity say of two sets of features, which `draw` makes.

Made with pytorch-fid 0.3.0, torch-fidelity 0.4.0, PyTorch 2.13.0 (CPU), SciPy 1.17.1, NumPy 2.4.6, Python 3.11; the
tests only read the result:

    pip install torch==2.13.0 torch-fidelity==0.4.0 pytorch-fid==0.3.0 && python make_metrics.py

Inception scores are of the parts of the set as it stands (no shuffling), the kernel distance of all pairs at once.
"""

import json
import pathlib

import numpy as np


def draw():
    """(samples [300,32], real [300,32], logits [300,10]) in float64; the covariances do not commute."""
    random = np.random.RandomState(0)
    turn = random.normal(size=(32, 32)) / 6
    real = np.abs(random.normal(size=(300, 32)) @ turn)
    samples = np.abs(random.normal(size=(300, 32)) @ (turn + 0.05 * random.normal(size=(32, 32)))) + 0.05
    return samples, real, 2 * random.normal(size=(300, 10))


def main():
    import torch

    torchvision = torch.library.Library("torchvision", "DEF")  # its own library wants CUDA; nothing of it is called
    for name in ("nms", "qnms"):
        torchvision.define(f"{name}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
    from pytorch_fid.fid_score import calculate_frechet_distance
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    samples, real, logits = draw()
    one, two = (torch.from_numpy(x) for x in (samples, real))
    moments = [moment for x in (samples, real) for moment in (x.mean(0), np.cov(x, rowvar=False))]
    statistics = [metric_fid.fid_features_to_statistics(x) for x in (one, two)]
    kid = metric_kid.kid_features_to_metric(one, two, kid_subsets=1, kid_subset_size=300, verbose=False)
    prc = metric_prc.prc_features_to_metric(one, two, prc_neighborhood=3, prc_batch_size=10000, verbose=False)
    found = {
        "frechet_pytorch_fid": float(calculate_frechet_distance(*moments)),
        "frechet_torch_fidelity": metric_fid.fid_statistics_to_metric(*statistics, verbose=False)[
            metric_fid.KEY_METRIC_FID
        ],
        "kernel_distance": float(kid[metric_kid.KEY_METRIC_KID_MEAN]),
        "precision": prc["precision"],
        "recall": prc["recall"],
    }
    for splits in (1, 10):
        score = metric_isc.isc_features_to_metric(torch.from_numpy(logits), splits=splits, shuffle=False)
        found[f"inception_score_{splits}"] = score[metric_isc.KEY_METRIC_ISC_MEAN]
    print(found)
    (pathlib.Path(__file__).parent / "metrics.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
