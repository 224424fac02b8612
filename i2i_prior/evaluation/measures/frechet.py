"""Frechet distance between two Gaussians fitted to features.

    FD = |m1 - m2|^2 + Tr S1 + Tr S2 - 2 Tr (S1 S2)^(1/2)

(Dowson and Landau 1982; Heusel et al. 2017, "GANs Trained by a Two Time-Scale
Update Rule", equation 6). Over the pool3 features of the published Inception
weights it is called FID; over any others it has another name here, see
`i2i_prior.evaluation.features.extractor.Extractor`.

The root is never formed. With S1 = R R^T, the eigenvalues of S1 S2 are those
of the symmetric R^T S2 R, so the trace is the sum of their square roots. With
S2 = Q Q^T too, it is the sum of the singular values of R^T Q, which keeps the
digits that squaring loses. The first way costs two products and one symmetric
eigenvalue problem once R is known (`reference_factor`), and its spectrum shows
how many digits it has; where those are too few, and for a set of fewer images
than dimensions, with a narrow Q, the second one is taken.

A covariance of n images has rank n - 1 at most. Where that is small compared
with its width d, its range is found by one product with a few random vectors
more than its rank (Halko, Martinsson and Tropp 2011, "Finding structure with
randomness", section 4.1). Their error bound is the part beyond the rank, here
nothing but rounding, so the range is exact. It costs O(d^2 n), all
eigenvectors O(d^3).
"""

import warnings
from dataclasses import dataclass

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.evaluation.measures.statistics import FeatureStatistics

_EPS = float(np.finfo(np.float64).eps)
# Largest rounding error of the faster way, as a share of Tr S1 + Tr S2. Over
# falling spectra of 256 to 1024 numbers it was a thousandth of that.
_MOST_ROUNDING = 1e-8
# Share of the largest eigenvalue, beyond any rounding error in float64.
_NEGATIVE = 1e-6
# Likewise in float32.
_NO_COVARIANCE = 1e-3
_MORE = 10  # random vectors beyond the rank


@dataclass(frozen=True)
class Factor:
    """Moments of a set with a factor of the covariance, S = R R^T."""

    mean: np.ndarray  # (d,) float64
    root: np.ndarray  # R, (d, r) float64, r < count the numerical rank of S
    trace: float  # Tr S
    count: int  # both as in FeatureStatistics
    features: str = ""

    @property
    def dim(self) -> int:
        """Dimension d of the features."""
        return len(self.mean)


def reference_factor(statistics: FeatureStatistics) -> Factor:
    """Factors a covariance once, for all the distances to it.

    UserError for fewer than 2 images, moments that are not finite, or an
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
    reference: FeatureStatistics | Factor, other: FeatureStatistics
) -> float:
    """Frechet distance between two feature sets, in squared feature units.

    Symmetric up to rounding, and never below 0 (rounding gives about -1e-12
    for equal sets, which is cut off). Its bias is about proportional to
    1/count, so only equal counts compare.

    UserError for other dimensions, other features, fewer than 2 images, or
    moments that are not finite. Warns when a set has no more members than
    dimensions: its covariance is then singular, and the distance mostly tells
    how few images there were.
    """
    check_pair(reference, other)
    warn_of_rank(reference.dim, reference.count, other.count)
    if not isinstance(reference, Factor):
        reference = reference_factor(reference)
    return distance_to(reference, other)


def distance_to(reference: Factor, other: FeatureStatistics) -> float:
    """Frechet distance without checks and warnings, for many in a row."""
    difference = reference.mean - other.mean
    trace, root = _traces(reference, other)
    return max(float(difference @ difference + trace - 2.0 * root), 0.0)


def _traces(a: Factor, other: FeatureStatistics) -> tuple[float, float]:
    """Traces Tr S1 + Tr S2, and Tr (S1 S2)^(1/2)."""
    if not narrow(other.count - 1, other.dim):
        cov = other.cov
        trace = a.trace + float(np.trace(cov))
        if np.isfinite(trace):
            spectrum = np.linalg.eigvalsh(a.root.T @ cov @ a.root)
            # The rest are zeros, and rounding would add their roots.
            spectrum = spectrum[-(other.count - 1) :]
            if _rounding(spectrum) <= _MOST_ROUNDING * trace:
                return trace, float(np.sqrt(spectrum.clip(0.0)).sum())
    b = reference_factor(other)
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


def narrow(rank: int, dim: int) -> bool:
    """Returns True if the range of this rank is cheaper than eigenvectors."""
    return 2 * (rank + _MORE) <= dim


def span(matrix: np.ndarray, rank: int) -> np.ndarray:
    """Orthonormal basis of the range of a matrix (d, d) of at most this rank.

    The matrix is symmetric and positive semi-definite up to rounding; of the
    columns, (d, min(rank + 10, d)), those beyond its rank are arbitrary.
    """
    columns = min(rank + _MORE, len(matrix))
    random = np.random.default_rng(0).normal(size=(len(matrix), columns))
    return np.linalg.qr(matrix @ random)[0]


def covariance_root(cov: np.ndarray, most: int) -> np.ndarray:
    """Root R (d, r) of a covariance (d, d), R R^T = cov.

    Cholesky's triangle; where that fails, or `most`, its images less one, is
    below d, eigenvectors, without those of rounding errors. UserError where an
    eigenvalue is too negative for a covariance; warns where it is more
    negative than rounding in float64.
    """
    # eigenvalues below this are rounding errors of zeros
    floor = len(cov) * _EPS * float(np.diag(cov).max())
    if most >= len(cov):
        try:
            root = np.linalg.cholesky(cov)
        except np.linalg.LinAlgError:
            pass
        else:
            if np.diag(root).min() ** 2 > floor:
                return root
    if narrow(most, len(cov)):
        basis = span(cov, most)
        values, vectors = np.linalg.eigh(basis.T @ cov @ basis)
        vectors = basis @ vectors
    else:
        values, vectors = np.linalg.eigh(cov)
    lowest = f"the eigenvalue {values[0]:.3g} next to {values[-1]:.3g}"
    if values[0] < -_NO_COVARIANCE * abs(values[-1]):
        raise UserError(
            f"a covariance has {lowest}, which none has; compute the "
            "statistics again from the images."
        )
    if values[0] < -_NEGATIVE * values[-1]:
        warnings.warn(
            f"a covariance has {lowest}, so it was not computed in float64; "
            "compute the statistics again.",
            stacklevel=4,
        )
    values, vectors = values[-most:], vectors[:, -most:]
    kept = values > floor
    return vectors[:, kept] * np.sqrt(values[kept])
