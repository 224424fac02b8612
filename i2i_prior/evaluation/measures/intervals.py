"""Confidence intervals by the delete-block jackknife.

A statistic of N independent samples, v, is computed anew without each of K
disjoint blocks of them. With v_k the value without block k and m their mean,

    variance = (K - 1) / K sum_k (v_k - m)^2

(Efron and Stein, "The jackknife estimate of variance", 1981; Efron and
Tibshirani, "An Introduction to the Bootstrap", chapter 11, blocks for points);
the half-width is its root times Student's t of K - 1 degrees. Drawing with
repetition (the bootstrap) is biased for a Frechet distance: repeats lower the
effective number of samples, and with it raise the distance.

The interval of a Frechet distance covers the expected distance of N other
samples of the same source, **with** the bias of N samples, which every
published FID has: the v_k share it, so it is not in the variance.
`extrapolate.fd_infinity` removes it. Share of 95 % intervals that covered, of
1000 (d = 8, N = 400, K = 10, as in tests/evaluation/measures/
test_intervals.py): 0.935 to 0.955 where the distributions differ and 0.986
where they are equal (there the interval is too wide by a third). Of 400 at
d = 32: 0.96 for N = 320 and 80, 0.995 for 24, fewer than dimensions. The
reference counts as given: its own sampling error is not in the interval.

Fewer samples than dimensions, and any part of them, lie in one narrow space.
Distances are computed in it, and are the same: with an orthonormal basis B of
it, B^T S B has the eigenvalues of S, and
R^T S R = (B^T R)^T (B^T S B) (B^T R) for every root R.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from i2i_prior.evaluation.measures.frechet import (
    Factor,
    check_pair,
    distance_to,
    narrow,
    span,
    warn_of_rank,
)
from i2i_prior.evaluation.measures.statistics import FeatureStatistics, merged

_LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """Confidence interval of a value."""

    value: float  # in the middle
    low: float  # not cut off at 0
    high: float
    level: float  # share of such intervals that cover, as 0.95
    method: str  # of estimation, with the counts

    @classmethod
    def around(
        cls, value: float, error: float, freedom: int, method: str
    ) -> Interval:
        """Interval at 95 % from a standard error and its degrees of freedom."""
        half = student(_LEVEL, freedom) * error
        return cls(value, value - half, value + half, _LEVEL, method)

    def record(self) -> dict[str, Any]:
        """Ends, level and method as JSON values, without the value."""
        return {k: v for k, v in asdict(self).items() if k != "value"}

    def __str__(self) -> str:
        """Text such as "12.34 +- 0.21 (95 %)", two digits of half-width."""
        half = (self.high - self.low) / 2.0
        places = 2
        if 0.0 < half < np.inf:
            places = max(1 - int(np.floor(np.log10(half))), 0)
        share = f"{100 * self.level:g} %"
        return f"{self.value:.{places}f} +- {half:.{places}f} ({share})"


def jackknife(value: float, without: np.ndarray, method: str) -> Interval:
    """Interval of a statistic from its values without each block, (K,)."""
    freedom = len(without) - 1
    error = float(np.sqrt(freedom * without.var()))
    return Interval.around(value, error, freedom, method)


def block_interval(
    reference: Factor, blocks: Sequence[FeatureStatistics]
) -> Interval:
    """Confidence interval of the Frechet distance to `reference`.

    From K + 1 distances, of disjoint blocks of about equal counts. UserError
    for fewer than 2 images a block, or other features; warns as
    `frechet_distance` of all samples does.
    """
    for block in blocks:
        check_pair(reference, block)
    count = sum(block.count for block in blocks)
    warn_of_rank(reference.dim, reference.count, count)
    if narrow(count, reference.dim):
        reference, blocks = _projected(reference, blocks, count)
    value = distance_to(reference, merged(blocks))
    without = [distance_to(reference, s) for s in leave_one_out(blocks)]
    method = f"delete-block jackknife, {len(blocks)} blocks"
    return jackknife(value, np.array(without), method)


def leave_one_out(
    parts: Sequence[FeatureStatistics], rest: FeatureStatistics | None = None
) -> Iterator[FeatureStatistics]:
    """Yields merged statistics of all parts but the first, the second, ...

    Merging the others, rather than subtracting a part from the whole, keeps
    the covariance positive semi-definite. By halves, so that K log K merges
    and log K covariances in memory are enough. `rest` goes into all of them.
    """
    if len(parts) == 1:
        yield rest or FeatureStatistics(parts[0].dim, parts[0].features)
        return
    half = len(parts) // 2
    left, right = parts[:half], parts[half:]
    yield from leave_one_out(left, merged(right, rest))
    yield from leave_one_out(right, merged(left, rest))


def _projected(
    factor: Factor, parts: Sequence[FeatureStatistics], count: int
) -> tuple[Factor, list[FeatureStatistics]]:
    """Sides in a basis of the span of `count` samples and the mean."""
    total = merged(parts)
    centre = total.mean
    gap = factor.mean - centre
    basis = span(total.moment, count - 1)
    basis = np.linalg.qr(np.column_stack([basis, gap]))[0]
    small = [
        FeatureStatistics.of(
            part.count,
            basis.T @ (part.mean - centre),
            basis.T @ part.moment @ basis,
        )
        for part in parts
    ]
    # Only its product with its transpose matters.
    triangle = np.asarray(np.linalg.qr(factor.root.T @ basis, mode="r"))
    return replace(factor, mean=basis.T @ gap, root=triangle.T), small


def student(level: float, freedom: int) -> float:
    """Two-sided quantile of Student's t: P(|T| < quantile) = level."""
    from scipy import special  # a second to import

    return float(special.stdtrit(freedom, (1.0 + level) / 2.0))
