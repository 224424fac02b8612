"""Factors of covariances: S = R R^T, with as few columns as S has rank.

A covariance of n images has rank n - 1 at most. Where that is small compared
with its width d, its range is found by one product with a few random vectors
more than its rank (Halko, Martinsson and Tropp 2011, "Finding structure with
randomness", section 4.1). Their error bound is the part beyond the rank, here
nothing but rounding, so the range is exact. It costs O(d^2 n), all
eigenvectors O(d^3).
"""

from __future__ import annotations

import warnings

import numpy as np

from i2i_prior.errors import UserError

_EPS = float(np.finfo(np.float64).eps)
# Share of the largest eigenvalue, beyond any rounding error in float64.
_NEGATIVE = 1e-6
# Likewise in float32.
_NO_COVARIANCE = 1e-3
_MORE = 10  # random vectors beyond the rank


def narrow(rank: int, dim: int) -> bool:
    """Returns True if the range of this rank is cheaper than eigenvectors."""
    return 2 * (rank + _MORE) <= dim


def span(matrix: np.ndarray, rank: int) -> np.ndarray:
    """Orthonormal basis of the range of a symmetric matrix.

    Args:
        matrix: (d, d), positive semi-definite up to rounding.
        rank: upper bound of its own, at most d.

    Returns:
        (d, k), k = min(rank + 10, d); columns beyond the matrix's rank are
        arbitrary.
    """
    columns = min(rank + _MORE, len(matrix))
    random = np.random.default_rng(0).normal(size=(len(matrix), columns))
    return np.linalg.qr(matrix @ random)[0]


def covariance_root(cov: np.ndarray, most: int) -> np.ndarray:
    """Root R (d, r) of a covariance, R R^T = cov.

    Args:
        cov: (d, d), symmetric and finite.
        most: its images less one, an upper bound of r.

    Returns:
        Cholesky's triangle; where that fails, or `most` is below d,
        eigenvectors, without those of rounding errors.

    Raises:
        UserError: an eigenvalue is too negative for a covariance.
    Warns when one is more negative than rounding in float64.
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
