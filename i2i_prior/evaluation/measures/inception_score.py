"""Inception Score: confidence of each image, and diversity over classes.

    IS = exp(E_x KL(p(y | x) || p(y)))

(Salimans et al. 2016, "Improved Techniques for Training GANs"), p(y) being the
mean over the images of one split; the mean over the splits is the score. Two
forms are in use, on the same logits (those without bias):

  - ADM's evaluator takes the splits in the order of the images;
  - torch-fidelity shuffles the images first, by RandomState(2020).

Of images sorted by class, ADM's form sees few classes a split, and the score
falls to a fraction.
"""

import warnings
from itertools import pairwise

import numpy as np

from i2i_prior.errors import UserError

# Share of the shuffled score, far below the effect of unsorted images' order.
_SORTED = 0.8
_CHECK_SEED = 2020


def inception_score(
    logits: np.ndarray, splits: int = 10, shuffle_seed: int | None = None
) -> tuple[float, float]:
    """Mean and standard deviation (ddof 0) of the score over the splits.

    Of logits (n, classes) without the bias of the last layer, which both ADM's
    evaluator and torch-fidelity leave out. Split i is of rows i n // splits to
    (i + 1) n // splits; `shuffle_seed` is None for ADM's form, 2020 for
    torch-fidelity's. UserError for fewer images than splits, or NaN; warns,
    without a shuffle, when the images look sorted by class.
    """
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
    seed = _CHECK_SEED if shuffle_seed is None else shuffle_seed
    order = np.random.RandomState(seed).permutation(len(logits))
    shuffled = _score(logits, splits, order)
    if shuffle_seed is not None:
        return shuffled
    found, mixed = _score(logits, splits, np.arange(len(logits))), shuffled[0]
    if found[0] < _SORTED * mixed:
        warnings.warn(
            f"the Inception Score is {found[0]:.2f} in the order of the "
            f"images and {mixed:.2f} in a random one, so they are sorted by "
            "class; shuffle them, or report shuffle_seed=2020.",
            stacklevel=2,
        )
    return found


def _score(
    logits: np.ndarray, splits: int, order: np.ndarray
) -> tuple[float, float]:
    count = len(logits)
    edges = [split * count // splits for split in range(splits + 1)]
    scores = [_split_score(logits[order[a:b]]) for a, b in pairwise(edges)]
    return float(np.mean(scores)), float(np.std(scores))


def _split_score(logits: np.ndarray) -> float:
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponents = np.exp(shifted)
    sums = exponents.sum(axis=1, keepdims=True)
    p, log_p = exponents / sums, shifted - np.log(sums)
    # a class that underflowed to 0 in all images adds nothing
    log_mean = np.log(np.maximum(p.mean(axis=0), np.finfo(np.float64).tiny))
    return float(np.exp((p * (log_p - log_mean)).sum(axis=1).mean()))
