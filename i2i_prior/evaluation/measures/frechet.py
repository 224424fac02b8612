"""Frechet distance between two Gaussians fitted to features.

    FD = |m1 - m2|^2 + Tr S1 + Tr S2 - 2 Tr (S1 S2)^(1/2)

(Dowson and Landau 1982; Heusel et al. 2017, "GANs Trained by a Two Time-Scale
Update Rule", equation 6). Over the pool3 features of the published Inception
weights it is called FID; over any others it has another name here, see
`i2i_prior.evaluation.features.colour_texture.metric_name`.

The root is never formed. With S1 = R R^T, the eigenvalues of S1 S2 are those
of the symmetric R^T S2 R, so the trace is the sum of their square roots. With
S2 = Q Q^T too, it is the sum of the singular values of R^T Q, which keeps the
digits that squaring loses. The first way costs two products and one symmetric
eigenvalue problem once R is known (`reference_factor`), and its spectrum shows
how many digits it has; where those are too few, and for a set of fewer images
than dimensions, with a narrow Q, the second one is taken.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.evaluation.measures.roots import covariance_root, narrow
from i2i_prior.evaluation.measures.statistics import FeatureStatistics

_EPS = float(np.finfo(np.float64).eps)
# Largest rounding error of the faster way, as a share of Tr S1 + Tr S2. Over
# falling spectra of 256 to 1024 numbers it was a thousandth of that.
_MOST_ROUNDING = 1e-8


@dataclass(frozen=True)
class Factor:
    """Moments of a set with a factor of the covariance, S = R R^T.

    Attributes:
        mean: (d,) float64.
        root: R, (d, r) float64, r the numerical rank of S.
        trace: Tr S.
        count: images behind the moments.
        features: their origin, as in FeatureStatistics.
    """

    mean: np.ndarray
    root: np.ndarray
    trace: float
    count: int
    features: str = ""

    @property
    def dim(self) -> int:
        """Dimension d of the features."""
        return len(self.mean)

    @property
    def rank(self) -> int:
        """Rank of the covariance: at most d, and at most count - 1."""
        return self.root.shape[1]


def reference_factor(statistics: FeatureStatistics) -> Factor:
    """Factors a covariance once, for all the distances to it.

    By Cholesky; where that fails, or there are no more images than
    dimensions, by eigenvectors, without those of rounding errors.

    Raises:
        UserError: fewer than 2 images, moments that are not finite, or an
            invalid covariance, see `covariance_root`, which also warns.
    """
    _check_count(statistics)
    mean, cov = statistics.mean, statistics.cov
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise UserError(
            "the statistics hold NaN or infinity; compute them again from "
            "the images."
        )
    root = covariance_root(cov, statistics.count - 1)
    trace = float(np.trace(cov))
    return Factor(mean, root, trace, statistics.count, statistics.features)


def frechet_distance(
    a: FeatureStatistics | Factor, b: FeatureStatistics | Factor
) -> float:
    """Frechet distance between two feature sets, in squared feature units.

    Symmetric in its arguments up to rounding, and never below 0 (rounding
    gives about -1e-12 for equal sets, which is cut off). Its bias is about
    proportional to 1/count, so only equal counts compare. For many distances
    to one set, give that one as its `reference_factor`.

    Raises:
        UserError: other dimensions, other features, fewer than 2 images, or
            moments that are not finite.
    Warns when a set has no more members than dimensions: its covariance is
    then singular, and the distance mostly tells how few images there were.
    """
    check_pair(a, b)
    warn_of_rank(a.dim, a.count, b.count)
    if isinstance(a, Factor):
        return distance_to(a, b)
    if isinstance(b, Factor):
        return distance_to(b, a)
    # the smaller set may have the smaller rank
    few, many = (a, b) if a.count <= b.count else (b, a)
    return distance_to(reference_factor(few), many)


def distance_to(reference: Factor, other: FeatureStatistics | Factor) -> float:
    """Frechet distance without checks and warnings, for many in a row."""
    difference = reference.mean - other.mean
    trace, root = _traces(reference, other)
    return max(float(difference @ difference + trace - 2.0 * root), 0.0)


def _traces(
    a: Factor, other: FeatureStatistics | Factor
) -> tuple[float, float]:
    """Traces Tr S1 + Tr S2, and Tr (S1 S2)^(1/2)."""
    few = not isinstance(other, Factor) and narrow(other.count - 1, other.dim)
    if isinstance(other, FeatureStatistics) and not few:
        cov = other.cov
        trace = a.trace + float(np.trace(cov))
        if np.isfinite(trace):
            spectrum = np.linalg.eigvalsh(a.root.T @ cov @ a.root)
            # The rest are zeros, and rounding would add their roots.
            spectrum = spectrum[-(other.count - 1) :]
            if _rounding(spectrum) <= _MOST_ROUNDING * trace:
                return trace, float(np.sqrt(spectrum.clip(0.0)).sum())
    b = other if isinstance(other, Factor) else reference_factor(other)
    values = np.linalg.svd(a.root.T @ b.root, compute_uv=False)
    return a.trace + b.trace, float(values.sum())


def _rounding(spectrum: np.ndarray) -> float:
    """Bound of the rounding error of the sum of the eigenvalues' roots.

    An eigenvalue is known to about eps times the largest one, its root
    therefore to that over twice the root; here all errors have one sign.
    """
    if not len(spectrum) or spectrum[-1] <= 0.0:
        return 0.0
    rounding = _EPS * spectrum[-1]
    if spectrum[0] < -len(spectrum) * rounding:
        return np.inf
    return float((rounding / np.sqrt(spectrum.clip(rounding)) / 2.0).sum())


def _check_count(statistics: FeatureStatistics | Factor) -> None:
    if statistics.count < 2:
        raise UserError(
            "a Frechet distance needs at least 2 images a side, one side "
            f"has {statistics.count}; draw more samples."
        )


def check_pair(
    a: FeatureStatistics | Factor, b: FeatureStatistics | Factor
) -> None:
    """Refuses sets of other features, or of fewer than 2 images each."""
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
    _check_count(a)
    _check_count(b)


def warn_of_rank(dim: int, *counts: int) -> None:
    """Warns where a side has no more images than dimensions."""
    fewest = min(counts)
    if fewest <= dim:
        warnings.warn(
            f"{fewest} images for {dim}-dimensional features: the "
            f"covariance has rank at most {fewest - 1} of {dim}, so this "
            "distance is biased upwards; use more images or fewer dimensions.",
            stacklevel=3,
        )
