"""Quality of labelled samples from an SVM fitted on real examples."""

import numpy as np


def svm_confidence(
    train: tuple[np.ndarray, np.ndarray],
    heldout: tuple[np.ndarray, np.ndarray],
    samples: np.ndarray,
    requested: np.ndarray | None = None,
) -> dict[str, float]:
    """Return the confidence of an SVM in samples and in held-out real examples.

    train, heldout: (x uint8 [N,*D], label int [N]). samples: uint8 [M,*D]. requested: int [M], the classes that the
    samples were conditioned on. The SVM is scikit-learn's SVC with its defaults, on grey levels, with probabilities
    calibrated on the training set by cross-validation.

    Returns svm_confidence and heldout_svm_confidence (means of the highest class probability),
    svm_confidence_ratio, heldout_svm_accuracy, and svm_rarest_class, the share of samples in the rarest class; with
    `requested` also svm_agreement, the share of samples that the SVM assigns to the requested class, and
    class_diversity.
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.svm import SVC

    def flat(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1).astype(np.float64)

    classifier = CalibratedClassifierCV(SVC(), ensemble=False).fit(flat(train[0]), train[1])
    of_samples, of_heldout = (classifier.predict_proba(flat(x)) for x in (samples, heldout[0]))
    shares = np.bincount(of_samples.argmax(1), minlength=len(classifier.classes_)) / len(samples)
    confidence, expected = float(of_samples.max(1).mean()), float(of_heldout.max(1).mean())
    figures = {
        "svm_confidence": confidence,
        "heldout_svm_confidence": expected,
        "svm_confidence_ratio": confidence / expected,
        "heldout_svm_accuracy": float((classifier.classes_[of_heldout.argmax(1)] == heldout[1]).mean()),
        "svm_rarest_class": float(shares.min()),
    }
    if requested is not None:
        figures["svm_agreement"] = float((classifier.classes_[of_samples.argmax(1)] == requested).mean())
        figures["class_diversity"] = class_diversity(train, (samples, requested))
    return figures


def class_diversity(real: tuple[np.ndarray, np.ndarray], samples: tuple[np.ndarray, np.ndarray]) -> float:
    """Return the variance of samples within classes, relative to real examples.

    1: as diverse as the data; 0: all samples of a class are equal. The variance of a class is the squared distance from
    its mean, summed over n examples and divided by n - 1; the means over the samples' classes are weighted by n - 1 of
    the samples, so that the shares of the classes do not count. real, samples: (x [N,*D], label int [N]). NaN if no
    class has two samples, or the data do not vary within classes.
    """

    def variance(x: np.ndarray, label: np.ndarray, chosen: int) -> tuple[float, int]:
        flat = x[label == chosen].reshape((label == chosen).sum(), -1).astype(np.float64)
        return float(flat.var(0, ddof=1).sum()) if len(flat) > 1 else 0.0, len(flat) - 1

    ours, theirs = 0.0, 0.0
    for chosen in np.unique(samples[1]):
        (of_samples, weight), (of_real, _) = (variance(*pair, chosen) for pair in (samples, real))
        ours, theirs = ours + weight * of_samples, theirs + weight * of_real
    return ours / theirs if theirs else float("nan")
