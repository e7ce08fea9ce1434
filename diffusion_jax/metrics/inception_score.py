"""Do samples look like something, and like many things? The Inception score, of any classifier's word."""

import numpy as np


def inception_score(logits: np.ndarray, splits: int = 1) -> float:
    """exp of the mean over samples of KL(p(class | sample) || p(class)); from 1 to the number of classes.

    logits [N,K] of a classifier. p(class) is the mean over the samples of a split, and the score the mean over `splits`
    parts of the set as it stands: 1 in the code of Ho et al. 2020, 10 in many papers; the score falls with the split's
    size, so name it. Source: Salimans et al. 2016, section 4. Raises ValueError if there are fewer samples than splits.
    """
    if not 1 <= splits <= len(logits):
        raise ValueError(f"splits={splits} must be at least 1 and at most the number of samples, {len(logits)}")
    return float(np.mean([_score(part) for part in np.array_split(np.asarray(logits, np.float64), splits)]))


def _score(logits: np.ndarray) -> float:
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    p = np.exp(log_p)
    marginal = np.log(np.maximum(p.mean(0), np.finfo(np.float64).tiny))
    return float(np.exp((p * (log_p - marginal)).sum(1).mean()))
