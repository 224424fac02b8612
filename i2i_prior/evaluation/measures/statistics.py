"""Mean and covariance of image features, streamed in float64.

A set of n features is kept as (n, mean, M2), M2 the sum of outer products of
the centred features. Two such sets are joined exactly by

    mean = mean_a + d n_b / n,       d = mean_b - mean_a,  n = n_a + n_b
    M2   = M2_a + M2_b + d d^T n_a n_b / n

(Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for
computing sample variances", 1979, equations 2.1). Centring before the product
keeps every digit that raw sums lose when the mean is large beside the spread,
and the order of batches or of hosts does not matter beyond rounding.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.evaluation.sets.npz import ERRORS, read_arrays

# The count of statistics whose file does not say it: beyond any real one, and
# a power of two, by which a covariance is scaled without rounding.
UNCOUNTED = 2**62 + 1
_SAVED = ("mu", "sigma", "count", "features")


class FeatureStatistics:
    """Count, mean and covariance of features of `dim` numbers each.

    `features` names where the numbers come from ("thumbnails", ...). It is
    saved with them, and sets with two different names never mix.
    """

    def __init__(self, dim: int, features: str = "") -> None:
        if dim < 1:
            raise UserError(f"features need at least 1 number, not {dim}.")
        self.dim = int(dim)
        self.features = features
        self.count = 0
        self._mean = np.zeros(self.dim)
        self._moment = np.zeros((self.dim, self.dim))

    @classmethod
    def of(
        cls,
        count: int,
        mean: np.ndarray,
        moment: np.ndarray,
        features: str = "",
    ) -> FeatureStatistics:
        """The statistics with these numbers.

        Args:
            count: number of features, at least 1.
            mean: (dim,), any float type.
            moment: (dim, dim), the sum of outer products of the features
                minus their mean.
            features: see the class.

        Raises:
            UserError: a number is not finite.
        """
        if not (np.isfinite(mean).all() and np.isfinite(moment).all()):
            raise _not_finite()
        made = cls(len(mean), features)
        made.count = int(count)
        made._mean = np.array(mean, np.float64)
        made._moment = np.array(moment, np.float64)
        return made

    @classmethod
    def of_covariance(
        cls,
        mean: np.ndarray,
        cov: np.ndarray,
        count: int | None = None,
        features: str = "",
    ) -> FeatureStatistics:
        """As `of`, from a covariance with divisor count - 1.

        Without a count, as in most files of others, it is UNCOUNTED: then
        nothing can be merged with it.
        """
        count = UNCOUNTED if count is None else count
        moment = np.asarray(cov, np.float64) * max(count - 1, 1)
        return cls.of(count, mean, moment, features)

    @property
    def counted(self) -> bool:
        """Whether `count` is known."""
        return self.count != UNCOUNTED

    @property
    def moment(self) -> np.ndarray:
        """(dim, dim) float64, `cov` before the division; not a copy."""
        return self._moment

    @property
    def mean(self) -> np.ndarray:
        """(dim,) float64; UserError before the first feature."""
        self._need_features()
        return self._mean.copy()

    @property
    def cov(self) -> np.ndarray:
        """(dim, dim) float64, divided by count - 1; zeros for one feature."""
        self._need_features()
        return self._moment / max(self.count - 1, 1)

    def update(self, features: np.ndarray) -> None:
        """Adds a batch (n, dim) of any float type and any n, also 0 or 1.

        Raises UserError where the width is another one, or where a value is
        not finite (a single NaN would spoil the whole set unseen).
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
        # what rounding left of the mean: it moves from the moment to the mean
        residual = centred.mean(axis=0)
        moment = centred.T @ centred - count * np.outer(residual, residual)
        self._join(count, mean + residual, moment)

    def merge(self, other: FeatureStatistics) -> None:
        """Adds everything `other` has seen; `other` stays as it is."""
        if other.dim != self.dim:
            raise UserError(
                f"statistics of dimension {self.dim} and {other.dim} cannot "
                "be merged; compute both with the same features."
            )
        if self.features and other.features and self.features != other.features:
            raise UserError(
                f"statistics of '{self.features}' and '{other.features}' "
                "cannot be merged; compute both with the same features."
            )
        if not (self.counted and other.counted):
            raise UserError(
                "statistics whose file does not say how many images they are "
                "of cannot be merged; make them again from the images."
            )
        self.features = self.features or other.features
        if other.count:
            self._join(other.count, other._mean, other._moment)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an .npz: mu, sigma (read by other FID tools too), count.

        Written beside, then renamed: a killed run leaves no half of a file.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with beside.open("wb") as handle:
                np.savez(
                    handle,
                    mu=self.mean,
                    sigma=self.cov,
                    count=np.int64(self.count),
                    features=np.str_(self.features),
                )
            os.replace(beside, target)
        finally:
            beside.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FeatureStatistics:
        """Reads what `save` wrote; UserError for anything else."""
        try:
            file = read_arrays(path, _SAVED.__contains__)
            mean, cov = file["mu"], file["sigma"]
            count, features = int(file["count"]), str(file["features"])
        except FileNotFoundError:
            raise UserError(f"there is no statistics file {path}.") from None
        except ERRORS as error:
            raise _not_statistics(path, error) from error
        if mean.ndim != 1 or cov.shape != (len(mean), len(mean)) or count < 1:
            raise _not_statistics(path, "its arrays have the wrong shapes")
        return cls.of_covariance(mean, cov, count, features)

    def _join(self, count: int, mean: np.ndarray, moment: np.ndarray) -> None:
        total = self.count + count
        delta = mean - self._mean
        self._mean = self._mean + delta * (count / total)
        weight = self.count * (count / total)
        self._moment += moment
        self._moment += np.outer(weight * delta, delta)
        self.count = total

    def _need_features(self) -> None:
        if self.count == 0:
            raise UserError(
                "these statistics have seen no feature; add images first."
            )


def _not_finite() -> UserError:
    return UserError(
        "the features hold NaN or infinity; look at the images and at the "
        "function that computed them."
    )


def _not_statistics(path: object, why: object) -> UserError:
    return UserError(
        f"{path} is not a statistics file of i2i-prior ({why}); make one from "
        "the images again."
    )
