"""Do samples look like the data? The word of a classifier that never saw the model: an SVM fitted on real examples."""

import numpy as np


def svm_confidence(
    train: tuple[np.ndarray, np.ndarray],
    heldout: tuple[np.ndarray, np.ndarray],
    samples: np.ndarray,
    asked: np.ndarray | None = None,
) -> dict[str, float]:
    """How sure an SVM is of the class of the samples, beside how sure it is of held-out real examples.

    train, heldout: (x uint8 [N,*D], label int [N]). samples: uint8 [M,*D]. asked: int [M], the classes they were to
    be of. The SVM is scikit-learn's SVC with its defaults on the grey levels as they are, its probabilities calibrated
    on the training set by cross-validation.

    Returns svm_confidence_samples and svm_confidence_heldout (means of the highest class probability),
    svm_confidence_ratio, svm_accuracy_heldout, and svm_rarest_class, the share of samples in the class that gets least;
    with `asked` also svm_agreement, the share of samples that are taken for the class that was asked for, and
    class_diversity.
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.svm import SVC

    def flat(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1).astype(np.float64)

    classifier = CalibratedClassifierCV(SVC(), ensemble=False).fit(flat(train[0]), train[1])
    of_samples, of_heldout = (classifier.predict_proba(flat(x)) for x in (samples, heldout[0]))
    shares = np.bincount(of_samples.argmax(1), minlength=len(classifier.classes_)) / len(samples)
    sure, expected = float(of_samples.max(1).mean()), float(of_heldout.max(1).mean())
    figures = {
        "svm_confidence_samples": sure,
        "svm_confidence_heldout": expected,
        "svm_confidence_ratio": sure / expected,
        "svm_accuracy_heldout": float((classifier.classes_[of_heldout.argmax(1)] == heldout[1]).mean()),
        "svm_rarest_class": float(shares.min()),
    }
    if asked is not None:
        figures["svm_agreement"] = float((classifier.classes_[of_samples.argmax(1)] == asked).mean())
        figures["class_diversity"] = class_diversity(train, (samples, asked))
    return figures


def class_diversity(real: tuple[np.ndarray, np.ndarray], samples: tuple[np.ndarray, np.ndarray]) -> float:
    """How much samples of one class differ from each other, as a share of how much real examples do.

    The squared distance of an example from the mean of its class, averaged, the samples' over the real ones' (each sum
    over N - classes, so that few examples do not count as less diverse): 1 is as diverse as the data, 0 all alike.
    real, samples: (x [N,*D], label int [N]). Not a number where no class has two samples.
    """

    def within(x: np.ndarray, label: np.ndarray) -> float:
        flat = x.reshape(len(x), -1).astype(np.float64)
        classes = np.unique(label)
        squares = sum(float(np.square(flat[label == c] - flat[label == c].mean(0)).sum()) for c in classes)
        return squares / (len(x) - len(classes)) if len(x) > len(classes) else float("nan")

    return within(*samples) / within(*real)
