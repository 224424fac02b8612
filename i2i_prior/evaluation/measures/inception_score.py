"""The Inception Score: sure of each image, and of all classes together.

    IS = exp(E_x KL(p(y | x) || p(y)))

(Salimans et al. 2016, "Improved Techniques for Training GANs"), p(y) being the
mean over the images of one split; the mean over the splits is the score. Two
forms are in use, on the same logits (those without bias):

  - ADM's evaluator takes the splits in the order of the images;
  - torch-fidelity shuffles the images first, by RandomState(2020).

Of images sorted by class, ADM's form sees few classes a split, and the score
falls to a fraction.
"""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np

from i2i_prior.errors import UserError

# The order of the images moves a score of unsorted ones far less than this.
_SORTED = 0.8
_CHECK_SEED = 2020


def inception_score(
    logits: np.ndarray, splits: int = 10, shuffle_seed: int | None = None
) -> tuple[float, float]:
    """Mean and standard deviation (ddof 0) of the score over the splits.

    Args:
        logits: (n, classes), without the bias of the last layer: both ADM's
            evaluator and torch-fidelity leave it out.
        splits: as equal as n allows, split i being rows i n // splits to
            (i + 1) n // splits.
        shuffle_seed: None for ADM's form; 2020 for torch-fidelity's.

    Raises:
        UserError: not (n, classes), fewer images than splits, or NaN.
    Warns, without a shuffle, when the images look sorted by class.
    """
    logits = np.asarray(logits)
    if logits.ndim != 2:
        raise UserError(
            f"logits of shape {logits.shape} have no Inception Score; pass an "
            "array (n, classes)."
        )
    if not 1 <= splits <= len(logits):
        raise UserError(
            f"{len(logits)} images do not make {splits} splits; draw more "
            "samples or take fewer splits."
        )
    if not np.isfinite(logits).all():
        raise UserError(
            "the logits hold NaN or infinity; look at the images and at the "
            "weights."
        )
    if shuffle_seed is not None:
        return _score(logits, splits, _shuffled(len(logits), shuffle_seed))
    found = _score(logits, splits, np.arange(len(logits)))
    mixed, _ = _score(logits, splits, _shuffled(len(logits), _CHECK_SEED))
    if found[0] < _SORTED * mixed:
        warnings.warn(
            f"the Inception Score is {found[0]:.2f} in the order of the "
            f"images and {mixed:.2f} in a random one, so they are sorted by "
            "class; shuffle them, or report shuffle_seed=2020.",
            stacklevel=2,
        )
    return found


def _shuffled(count: int, seed: int) -> np.ndarray:
    return np.random.RandomState(seed).permutation(count)


def _score(
    logits: np.ndarray, splits: int, order: np.ndarray
) -> tuple[float, float]:
    count = len(logits)
    edges = [split * count // splits for split in range(splits + 1)]
    scores = [
        _split_score(logits[order[start:end]].astype(np.float64))
        for start, end in pairwise(edges)
    ]
    return float(np.mean(scores)), float(np.std(scores))


def _split_score(logits: np.ndarray) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponents = np.exp(shifted)
    sums = exponents.sum(axis=1, keepdims=True)
    p, log_p = exponents / sums, shifted - np.log(sums)
    # a class that underflowed to 0 everywhere adds nothing
    log_mean = np.log(np.maximum(p.mean(axis=0), np.finfo(np.float64).tiny))
    return float(np.exp((p * (log_p - log_mean)).sum(axis=1).mean()))
