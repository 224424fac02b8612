"""The Frechet distance between two Gaussians fitted to features.

    FD = |m1 - m2|^2 + Tr S1 + Tr S2 - 2 Tr (S1 S2)^(1/2)

(Dowson and Landau 1982; Heusel et al. 2017, "GANs Trained by a Two Time-Scale
Update Rule", equation 6). Over the pool3 features of the published Inception
weights it is called FID; over any others it has another name here, see
`i2i_prior.evaluation.features.metric_name`.

The trace of the root takes the symmetric route: with A = S1^(1/2), S1 S2 and
A S2 A have the same eigenvalues, and the latter matrix is symmetric and
positive semi-definite. So two symmetric eigenvalue problems suffice, the
result is real, and rank-deficient covariances are no special case.
"""

from __future__ import annotations

import warnings

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.evaluation.statistics import FeatureStatistics


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Frechet distance between two feature sets, in squared feature units.

    Symmetric in its arguments up to rounding, and never below 0 (rounding can
    leave about -1e-12 for equal sets, which is cut off). Its bias is about
    proportional to 1/count, so only equal counts compare.

    Raises:
        UserError: other dimensions, other features, or fewer than 2 images.
    Warns when a set has no more members than dimensions: its covariance is
    then singular, and the distance mostly tells how few images there were.
    """
    _check(a, b)
    difference = a.mean - b.mean
    cov_a, cov_b = a.cov, b.cov
    distance = (
        difference @ difference
        + np.trace(cov_a)
        + np.trace(cov_b)
        - 2.0 * trace_of_root(cov_a, cov_b)
    )
    return max(float(distance), 0.0)


def trace_of_root(cov_a: np.ndarray, cov_b: np.ndarray) -> float:
    """Tr (S1 S2)^(1/2) of two symmetric PSD matrices (d, d), float64."""
    values, vectors = np.linalg.eigh(cov_a)
    # rounding makes zero eigenvalues slightly negative; their root is zero
    root = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    product = root @ cov_b @ root
    spectrum = np.linalg.eigvalsh((product + product.T) / 2.0)
    return float(np.sqrt(np.clip(spectrum, 0.0, None)).sum())


def _check(a: FeatureStatistics, b: FeatureStatistics) -> None:
    if a.dim != b.dim:
        raise UserError(
            f"features of dimension {a.dim} and {b.dim} have no Frechet "
            "distance; compute both sides with the same features."
        )
    if a.features and b.features and a.features != b.features:
        raise UserError(
            f"'{a.features}' and '{b.features}' have no Frechet distance; "
            "compute both sides with the same features."
        )
    for statistics in (a, b):
        if statistics.count < 2:
            raise UserError(
                "a Frechet distance needs at least 2 images a side, one side "
                f"has {statistics.count}; draw more samples."
            )
    fewest = min(a.count, b.count)
    if fewest <= a.dim:
        warnings.warn(
            f"{fewest} images for {a.dim}-dimensional features: the "
            f"covariance has rank at most {fewest - 1} of {a.dim}, so this "
            "distance is biased upwards; use more images or fewer dimensions.",
            stacklevel=3,
        )
