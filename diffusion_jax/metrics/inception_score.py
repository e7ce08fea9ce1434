"""Inception score (Salimans et al. 2016) from the class probabilities of a classifier."""

import numpy as np


def inception_score(logits: np.ndarray, splits: int = 1) -> float:
    """Return exp of the mean over samples of KL(p(class | sample) || p(class)); from 1 to the number of classes.

    logits [N,K]. p(class) is the mean over the samples of a split, and the score the mean over `splits` consecutive
    parts of the set: 1 in the code of Ho et al. 2020, 10 in many papers. The score decreases with the size of a split,
    so report their number. Reference: Salimans et al. 2016, section 4. Raises ValueError for fewer samples than splits.
    """
    if not 1 <= splits <= len(logits):
        raise ValueError(f"splits={splits}: must lie in 1 … {len(logits)}, the number of samples")
    return float(np.mean([_score(part) for part in np.array_split(np.asarray(logits, np.float64), splits)]))


def _score(logits: np.ndarray) -> float:
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    p = np.exp(log_p)
    marginal = np.log(np.maximum(p.mean(0), np.finfo(np.float64).tiny))
    return float(np.exp((p * (log_p - marginal)).sum(1).mean()))
