"""CPU seconds of the last step of a FID, by four ways, and their digits.

    PYTHONPATH=. python benchmarks/frechet_time.py [--dim 2048] [--rounds 2]

Features of `dim` numbers with variances that fall as 1 / i, `count` of them
against 3 x `dim` of a reference; one BLAS thread. The ways take turns in one
process, the first one again at the end of a round:

    ours     frechet_distance with a cached reference_factor
    eigvals  numpy's eigenvalues of S1 S2, torch-fidelity's way
    sqrtm    scipy's root of S1 S2, pytorch-fid's and ADM's way
    svd      singular values of the triangular factors of the features
             themselves: no covariance is formed, and the errors are
             measured against it

and an interval, the jackknife over 10 blocks, with the same cached factor.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import scipy.linalg
from interleaved import main
from threadpoolctl import threadpool_limits

from i2i_prior.evaluation.measures.frechet import (
    frechet_distance,
    reference_factor,
)
from i2i_prior.evaluation.measures.intervals import block_interval
from i2i_prior.evaluation.measures.statistics import FeatureStatistics


def features(count: int, dim: int, seed: int) -> np.ndarray:
    """Gaussian, (count, dim), in a random basis all seeds share a half of."""
    shared, own = np.random.default_rng(0), np.random.default_rng(seed)
    basis = shared.normal(size=(dim, dim)) + 0.3 * own.normal(size=(dim, dim))
    basis /= np.sqrt(dim * np.arange(1, dim + 1)[:, None])
    return own.normal(size=(count, dim)) @ basis + 0.1 * own.normal(size=dim)


def statistics_of(rows: np.ndarray) -> FeatureStatistics:
    """The statistics of rows of features, (count, dim)."""
    found = FeatureStatistics(rows.shape[1])
    found.update(rows)
    return found


def by_svd(x: np.ndarray, y: np.ndarray) -> float:
    """Frechet distance by the triangular factors of the centred features."""
    centred = [(r - r.mean(0)) / np.sqrt(len(r) - 1) for r in (x, y)]
    a, b = (np.linalg.qr(rows, mode="r") for rows in centred)
    roots = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    gap = ((x.mean(0) - y.mean(0)) ** 2).sum()
    return float(gap + sum((r**2).sum() for r in centred) - 2 * roots)


def by_product(a: FeatureStatistics, b: FeatureStatistics, trace) -> float:
    """Frechet distance, with trace(S1 S2) for Tr (S1 S2)^(1/2)."""
    gap = ((a.mean - b.mean) ** 2).sum()
    cov_a, cov_b = a.cov, b.cov
    spread = np.trace(cov_a) + np.trace(cov_b)
    return float(gap + spread - 2 * trace(cov_a @ cov_b))


def by_eigenvalues(product: np.ndarray) -> float:
    """Sum of the real parts of the roots of the eigenvalues."""
    return np.sqrt(np.linalg.eigvals(product).astype(complex)).real.sum()


def by_sqrtm(product: np.ndarray) -> float:
    """Trace of the real part of the matrix root."""
    return np.trace(scipy.linalg.sqrtm(product).real)


def timed(way: Callable[[], float]) -> tuple[float, float]:
    """CPU seconds and value of a call."""
    began = time.process_time()
    value = way()
    return time.process_time() - began, value


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that are its own."""
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--count", type=int, default=3000)


def measure(options: argparse.Namespace) -> dict:
    """CPU seconds and values by way, with one thread."""
    warnings.simplefilter("ignore")
    with threadpool_limits(1):
        return compare(options.dim, options.count, options.rounds)


def compare(dim: int, count: int, rounds: int) -> dict:
    """Prints a line a way: median seconds, ratio to ours, error."""
    x = features(3 * dim, dim, 1)
    y = features(count, dim, 2)
    a, b = statistics_of(x), statistics_of(y)
    spent, factor = timed(lambda: reference_factor(a))
    print(f"reference_factor, once: {spent:.2f} CPU s")
    ways = {
        "ours": lambda: frechet_distance(factor, b),
        "eigvals": lambda: by_product(a, b, by_eigenvalues),
        "sqrtm": lambda: by_product(a, b, by_sqrtm),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    values = {}
    for _ in range(rounds):
        for name in [*ways, "ours"]:
            spent, values[name] = timed(ways[name])
            seconds[name].append(spent)
    parts = [statistics_of(y[block::10]) for block in range(10)]
    spent, _ = timed(lambda: block_interval(factor, parts).value)
    seconds["interval"] = [spent]
    spent, exact = timed(lambda: by_svd(x, y))
    seconds["svd"], values["svd"] = [spent], exact
    ours = statistics.median(seconds["ours"])
    print(f"FD {exact:.10f}, d = {dim}, n = {count}")
    for name, series in seconds.items():
        median = statistics.median(series)
        error = f"  error {values[name] - exact:9.1e}" if name in values else ""
        print(
            f"{name:8} {median:6.2f} CPU s   {median / ours:5.1f} x ours",
            error,
            flush=True,
        )
    return {"seconds": seconds, "values": values}


if __name__ == "__main__":
    main(__doc__, 2, measure, add_options)
