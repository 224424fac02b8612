"""Frechet distance extrapolated to infinitely many samples.

A Frechet distance over n samples is too large by about c / n (Chong and
Forsyth 2020, "Effectively Unbiased FID and Inception Score and where to find
them"), so a straight line in 1 / n, drawn through the distances of several n,
is extrapolated to 1 / n = 0. All n come from one pass: a shuffled order of the
samples is fixed, and each n takes that many from its start.

The noise of the points follows from that. To first order a distance is a mean
over its samples, so with t = 1 / n the points are a straight line plus
s B(t), B a Brownian motion: variance s^2 t, covariance s^2 min(t, t'). The line
is fitted with weights n, the inverse of the variance; s^2 is estimated from
the residuals, and the standard error counts the covariance of nested sets,
which that of an ordinary fit would not. Where the two distributions are nearly
equal, the noise falls faster than 1 / n and the standard error is too large.
"""

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.evaluation.measures.frechet import (
    Factor,
    check_pair,
    distance_to,
)
from i2i_prior.evaluation.measures.intervals import Interval
from i2i_prior.evaluation.measures.statistics import FeatureStatistics

_POINTS = 15  # Chong and Forsyth's
_FEWEST = 3  # a line through two points has no residual


def fewest_images(dim: int) -> int:
    """Number of images for a line through counts above `dim`."""
    return dim + _FEWEST


def prefix_sizes(count: int, dim: int) -> list[int]:
    """Counts of the 15 points, evenly from count / 10 (above `dim`) on."""
    smallest = max(count // 10, dim + 1)
    sizes = np.linspace(smallest, count, _POINTS).round().astype(int)
    return sorted(set(sizes.tolist()))


def fd_infinity(
    reference: Factor, features: np.ndarray, seed: int = 0
) -> Interval:
    """Extrapolates the Frechet distance to infinitely many samples.

    Only the samples' side is extrapolated: the reference stays as it is, with
    the bias of its own count. The value may come out just below 0; the
    interval is about other samples. UserError for too few images, unusable
    features, or another dimension.
    """
    counts, distances = prefix_distances(reference, features, seed)
    value, _, error = fit_line(np.array(counts), np.array(distances))
    method = f"line in 1 / n through {len(counts)} prefixes"
    # points less the line's two numbers
    return Interval.around(value, error, len(counts) - 2, method)


def prefix_distances(
    reference: Factor, features: np.ndarray, seed: int = 0
) -> tuple[list[int], list[float]]:
    """Counts and distances of the points, of features (n, d)."""
    features = np.asarray(features)
    statistics = FeatureStatistics(reference.dim, reference.features)
    statistics.update(features[:2])  # errors come before any work
    check_pair(reference, statistics)
    fewest = fewest_images(reference.dim)
    if len(features) < fewest:
        raise UserError(
            f"fd_infinity of {reference.dim} numbers an image needs at least "
            f"{fewest} images, and there are {len(features)}; draw more, or "
            "take fewer dimensions."
        )
    counts = prefix_sizes(len(features), reference.dim)
    order = np.random.default_rng(seed).permutation(len(features))
    statistics = FeatureStatistics(reference.dim, reference.features)
    distances = []
    for rows in np.split(order, counts)[: len(counts)]:
        statistics.update(features[rows])
        distances.append(distance_to(reference, statistics))
    return counts, distances


def fit_line(
    counts: np.ndarray, distances: np.ndarray
) -> tuple[float, float, float]:
    """Fits value + slope / n to distances (k,) of nested prefixes, k >= 3.

    Returns value at 1 / n = 0, slope in 1 / n, standard error of the value.
    """
    t = 1.0 / counts
    design = np.stack([np.ones_like(t), t], axis=1)
    weights = np.sqrt(counts)
    solve = np.linalg.pinv(design * weights[:, None]) * weights
    line = solve @ distances
    # residuals = leave @ noise, and noise has the covariance s^2 * shared
    leave = np.eye(len(t)) - design @ solve
    shared = np.minimum.outer(t, t)
    whiten = np.linalg.inv(shared)
    residuals = leave @ distances
    expected = np.trace(whiten @ leave @ shared @ leave.T)
    variance = residuals @ whiten @ residuals / expected
    error = np.sqrt(max(variance, 0.0) * (solve @ shared @ solve.T)[0, 0])
    return float(line[0]), float(line[1]), float(error)
