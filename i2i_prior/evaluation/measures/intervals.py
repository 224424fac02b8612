"""Confidence intervals of a Frechet distance over other samples.

The samples are split into K disjoint blocks, row i into block i modulo K.
Drawing with repetition (the bootstrap) is biased here: repeats lower the
effective number of samples, and with it raise the distance.

**Delete-block jackknife.** The interval is about the distance of all N
samples, v. With v_k the distance without block k and m their mean,

    variance = (K - 1) / K sum_k (v_k - m)^2

(Efron and Tibshirani, "An Introduction to the Bootstrap", chapter 11, blocks
for points); the half-width is its root times Student's t of K - 1 degrees. It
covers the expected distance of N other samples of the same source, **with** the
bias of N samples, which every published FID has: the v_k share it, so it is not
in the variance. `extrapolate.fd_infinity` removes it.

**Disjoint blocks.** The interval is about the mean of the K blocks' own
distances, which is larger: it covers the expected distance of N / K samples,
and only assumes their independence.

Share of 95 % intervals that covered, of 1000 (d = 8, N = 400, K = 10, as in
tests/evaluation/measures/test_intervals.py): the jackknife's 0.935 to 0.955
where the distributions differ and 0.986 where they are equal (there the
interval is too wide by a third); disjoint blocks' 0.934 to 0.945. Of 400 at
d = 32 the jackknife's: 0.96 for N = 320 and 80, 0.995 for 24, fewer than
dimensions.

The reference counts as given: its own sampling error is not in the interval.

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

from i2i_prior.errors import UserError
from i2i_prior.evaluation.measures.frechet import (
    Factor,
    check_pair,
    distance_to,
    reference_factor,
    warn_of_rank,
)
from i2i_prior.evaluation.measures.roots import narrow, span
from i2i_prior.evaluation.measures.statistics import FeatureStatistics


@dataclass(frozen=True)
class Interval:
    """Confidence interval of a value.

    Attributes:
        value: in the middle of the interval.
        low, high: its ends; `low` is not cut off at 0.
        level: share of such intervals that cover, as 0.95.
        method: of estimation, with the counts.
    """

    value: float
    low: float
    high: float
    level: float
    method: str

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


def block_interval(
    reference: FeatureStatistics | Factor,
    samples: np.ndarray | Sequence[FeatureStatistics],
    *,
    blocks: int = 10,
    level: float = 0.95,
    method: str = "jackknife",
) -> Interval:
    """Confidence interval of the Frechet distance to `reference`.

    Args:
        reference: one side, factored once if it is not yet.
        samples: features (n, d), or the statistics of disjoint blocks of
            about equal counts.
        blocks: K, for features.
        level: see `Interval`.
        method: "jackknife" or "disjoint", see the head of this file. The
            jackknife costs K + 1 distances, the other K.

    Raises:
        UserError: fewer than 2 blocks, blocks of very different counts or
            fewer than 2 images each, other features, an unknown method.
    Warns as `frechet_distance` of all samples does.
    """
    if method not in _METHODS:
        raise UserError(
            f"there is no interval method '{method}'; use one of "
            f"{', '.join(_METHODS)}."
        )
    if not 0.0 < level < 1.0:
        raise UserError(f"a level lies between 0 and 1, not at {level}.")
    parts = (
        split(samples, blocks, reference.features)
        if isinstance(samples, np.ndarray)
        else list(samples)
    )
    _check_blocks(reference, parts)
    count = sum(part.count for part in parts)
    warn_of_rank(reference.dim, reference.count, count)
    factor = (
        reference
        if isinstance(reference, Factor)
        else reference_factor(reference)
    )
    if narrow(count, reference.dim):
        factor, parts = _projected(factor, parts, count)
    value, error, text = _METHODS[method](factor, parts)
    half = student(level, len(parts) - 1) * error
    return Interval(value, value - half, value + half, level, text)


def split(
    features: np.ndarray, blocks: int, name: str = ""
) -> list[FeatureStatistics]:
    """Statistics of K blocks: rows 0, K, 2K, ...; 1, K + 1, ...; and so on."""
    parts = []
    for block in range(blocks):
        part = FeatureStatistics(features.shape[-1], name)
        part.update(features[block::blocks])
        parts.append(part)
    return parts


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


def merged(
    parts: Sequence[FeatureStatistics], first: FeatureStatistics | None = None
) -> FeatureStatistics:
    """Merged statistics of all parts and `first`, which stay as they are."""
    total = FeatureStatistics(parts[0].dim)
    for part in parts if first is None else [first, *parts]:
        total.merge(part)
    return total


def _projected(
    factor: Factor, parts: list[FeatureStatistics], count: int
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


def _jackknife(
    factor: Factor, parts: list[FeatureStatistics]
) -> tuple[float, float, str]:
    count = len(parts)
    value = distance_to(factor, merged(parts))
    without = np.array([distance_to(factor, s) for s in leave_one_out(parts)])
    error = np.sqrt((count - 1) * without.var())
    return value, float(error), f"delete-block jackknife, {count} blocks"


def _disjoint(
    factor: Factor, parts: list[FeatureStatistics]
) -> tuple[float, float, str]:
    found = np.array([distance_to(factor, part) for part in parts])
    error = found.std(ddof=1) / np.sqrt(len(parts))
    smallest = min(part.count for part in parts)
    text = f"{len(parts)} disjoint blocks of {smallest}"
    return float(found.mean()), float(error), text


_METHODS = {"jackknife": _jackknife, "disjoint": _disjoint}


def _check_blocks(
    reference: FeatureStatistics | Factor, parts: list[FeatureStatistics]
) -> None:
    if len(parts) < 2:
        raise UserError(
            f"an interval needs at least 2 blocks, not {len(parts)}."
        )
    for part in parts:
        check_pair(reference, part)
    counts = [part.count for part in parts]
    if min(counts) < 0.9 * max(counts) - 1:
        raise UserError(
            f"blocks of {min(counts)} to {max(counts)} images give no "
            "interval; make them of about equal counts."
        )


def student(level: float, freedom: int) -> float:
    """Two-sided quantile of Student's t: P(|T| < quantile) = level."""
    from scipy import special  # a second to import

    return float(special.stdtrit(freedom, (1.0 + level) / 2.0))
