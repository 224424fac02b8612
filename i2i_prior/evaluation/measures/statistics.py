"""Mean and covariance of image features, streamed in float64.

A set of n features is kept as (n, mean, M2), M2 the sum of outer products of
the centred features. Two such sets are joined exactly by

    mean = mean_a + d n_b / n,       d = mean_b - mean_a,  n = n_a + n_b
    M2   = M2_a + M2_b + d d^T n_a n_b / n

(Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for
computing sample variances", 1979, equations 2.1). Centring before the product
keeps every digit that raw sums lose for a mean larger than the spread, and the
order of batches or of hosts does not matter beyond rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from i2i_prior.errors import UserError

# Count of statistics from a file without one: beyond any real one, and a power
# of two, by which a covariance is scaled without rounding.
UNCOUNTED = 2**62 + 1


class FeatureStatistics:
    """Count, mean and covariance of features of `dim` numbers each.

    `features` names their origin ("thumbnails", ...), and is saved with them;
    `moment` is the sum of centred outer products, (dim, dim) float64.
    """

    def __init__(self, dim: int, features: str = "") -> None:
        if dim < 1:
            raise UserError(f"features need at least 1 number, not {dim}.")
        self.dim = int(dim)
        self.features = features
        self.count = 0
        self._mean = np.zeros(self.dim)
        self.moment = np.zeros((self.dim, self.dim))

    @classmethod
    def of(
        cls,
        count: int,
        mean: np.ndarray,
        moment: np.ndarray,
        features: str = "",
    ) -> FeatureStatistics:
        """Makes statistics of given moments; UserError where not finite.

        The moment (dim, dim) is the sum of outer products of the features
        minus their mean (dim,); the count is at least 1.
        """
        if not (np.isfinite(mean).all() and np.isfinite(moment).all()):
            raise _not_finite()
        made = cls(len(mean), features)
        made.count = int(count)
        made._mean = np.array(mean, np.float64)
        made.moment = np.array(moment, np.float64)
        return made

    @classmethod
    def of_covariance(
        cls,
        mean: np.ndarray,
        cov: np.ndarray,
        count: int | None = None,
        features: str = "",
    ) -> FeatureStatistics:
        """Makes statistics of a covariance with divisor count - 1.

        Without a count, as in most published files, it is UNCOUNTED.
        """
        count = UNCOUNTED if count is None else count
        moment = np.asarray(cov, np.float64) * max(count - 1, 1)
        return cls.of(count, mean, moment, features)

    @property
    def mean(self) -> np.ndarray:
        """Mean, (dim,) float64; UserError before the first feature."""
        self._check_not_empty()
        return self._mean.copy()

    @property
    def cov(self) -> np.ndarray:
        """Covariance, (dim, dim) float64, divided by count - 1; zeros for 1."""
        self._check_not_empty()
        return self.moment / max(self.count - 1, 1)

    def update(self, features: np.ndarray) -> None:
        """Adds a batch (n, dim) of any float type and any n, also 0 or 1.

        UserError where the width is another one, or a value is not finite,
        which would make the whole set so.
        """
        batch = np.asarray(features, dtype=np.float64)
        if batch.ndim != 2 or batch.shape[1] != self.dim:
            raise UserError(
                f"features of shape {batch.shape} do not fit statistics of "
                f"dimension {self.dim}; pass an array (n, {self.dim})."
            )
        if not np.isfinite(batch).all():
            raise _not_finite()
        count = len(batch)
        if count == 0:
            return
        mean = batch.mean(axis=0)
        centred = batch - mean
        # The rounding error of the mean moves from the moment to the mean.
        residual = centred.mean(axis=0)
        moment = centred.T @ centred - count * np.outer(residual, residual)
        self._join(count, mean + residual, moment)

    def merge(self, other: FeatureStatistics) -> None:
        """Adds the same features of other images; `other` stays as it is."""
        if other.count:
            self._join(other.count, other._mean, other.moment)

    def _join(self, count: int, mean: np.ndarray, moment: np.ndarray) -> None:
        total = self.count + count
        delta = mean - self._mean
        self._mean = self._mean + delta * (count / total)
        weight = self.count * (count / total)
        self.moment += moment
        self.moment += np.outer(weight * delta, delta)
        self.count = total

    def _check_not_empty(self) -> None:
        if self.count == 0:
            raise UserError(
                "these statistics have no feature; add images first."
            )


def merged(
    parts: Sequence[FeatureStatistics], first: FeatureStatistics | None = None
) -> FeatureStatistics:
    """Merged statistics of all parts and `first`, which stay as they are."""
    total = FeatureStatistics(parts[0].dim, parts[0].features)
    for part in parts if first is None else [first, *parts]:
        total.merge(part)
    return total


def _not_finite() -> UserError:
    return UserError(
        "the features hold NaN or infinity; look at the images and at the "
        "function that computed them."
    )
