"""Kernel distances between feature sets: KID and CMMD.

Both estimate the squared maximum mean discrepancy

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)

(Gretton et al. 2012, "A Kernel Two-Sample Test"). Unlike a Frechet distance
they assume no Gaussian, and KID has no bias in the number of images.
"""

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.evaluation.measures.distances import (
    feature_rows,
    squared_distances,
)

CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0


def kid(
    x: np.ndarray,
    y: np.ndarray,
    seed: int = 2020,
    subsets: int = 100,
    subset_size: int = 1000,
) -> tuple[float, float]:
    """KID over random subsets, as torch-fidelity draws them.

    k(x, y) = (x.y / d + 1)^3 with the unbiased estimate (Binkowski et al.
    2018, "Demystifying MMD GANs"); over the published Inception's pool3
    features it is KID. It may come out slightly negative for sets of one
    distribution.

    Returns mean and standard deviation (ddof 0) over the subsets, of
    `subset_size` rows of each side without repetition, drawn by numpy's
    RandomState. That of x (n, d), torch-fidelity's input 1 (the generated
    images), is drawn before that of y (m, d). UserError for fewer rows than a
    subset, other widths, NaN.
    """
    x, y = feature_rows(x, y, at_least=2)
    if min(len(x), len(y)) < subset_size:
        raise UserError(
            f"subsets of {subset_size} images need as many a side, and one "
            f"has {min(len(x), len(y))}; draw more or lower subset_size."
        )
    random = np.random.RandomState(seed)
    found = [
        _unbiased_mmd(
            x[random.choice(len(x), subset_size, replace=False)],
            y[random.choice(len(y), subset_size, replace=False)],
        )
        for _ in range(subsets)
    ]
    return float(np.mean(found)), float(np.std(found))


def cmmd(x: np.ndarray, y: np.ndarray) -> float:
    """CLIP maximum mean discrepancy, x 1000 (Jayasumana et al. 2024).

    ("Rethinking FID: Towards a Better Evaluation Metric for Image
    Generation".) Of embeddings (n, d) and (m, d), scaled to length 1, with
    k(x, y) = exp(-|x - y|^2 / (2 sigma^2)), sigma = 10, and the biased
    estimate, which counts each image's kernel with itself. The published
    numbers are over CLIP ViT-L/14 at 336 pixels.

    All kernels are near 1, so 1 is subtracted before they are summed (expm1):
    without that, about 1e-4 of a float32 result is noise. UserError for other
    widths, no rows, NaN, or an embedding of zeros.
    """
    x, y = (_unit(rows) for rows in feature_rows(x, y))
    kernels = _mean_kernel(x, x) + _mean_kernel(y, y) - 2 * _mean_kernel(x, y)
    return CMMD_SCALE * kernels


def _unbiased_mmd(x: np.ndarray, y: np.ndarray) -> float:
    count = len(x)
    pairs = count * (count - 1)
    within = 0.0
    for rows in (x, y):
        kernel = _cubic(rows, rows)
        within += (kernel.sum() - np.trace(kernel)) / pairs
    return float(within - 2.0 * _cubic(x, y).mean())


def _cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    base = x @ y.T / x.shape[1] + 1.0
    return base * base * base


def _unit(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not lengths.all():
        raise UserError(
            "an embedding of zeros has no direction; look at the image and "
            "at the function that computed it."
        )
    return rows / lengths


def _mean_kernel(x: np.ndarray, y: np.ndarray) -> float:
    """Mean of CMMD's k(x_i, y_j) - 1 over all pairs."""
    scale = -1.0 / (2.0 * CMMD_SIGMA**2)
    total = sum(
        np.expm1(scale * slab).sum() for _, slab in squared_distances(x, y)
    )
    return float(total / (len(x) * len(y)))
