"""Residual bootstrap, with intervals corrected for few runs.

The bootstrap of cases covers too seldom where runs are few and each is a
corner of the design. Here the design is fixed and the noise is drawn: from
residuals corrected for leverage, smoothed by a kernel (a least-absolute fit
runs through five points exactly, and would draw zeros), scaled to the
variance over degrees of freedom. Percentiles of the refits are stretched
about the estimate by the ratio of Student's t and normal quantiles.
benchmarks/law_coverage.py measures the coverage.
"""

import warnings

import numpy as np

LEVEL = 0.95


def leverages(slopes: np.ndarray) -> np.ndarray:
    """Diagonal of the hat matrix (n,) of slopes (n, p)."""
    q, _ = np.linalg.qr(slopes)
    return np.minimum((q**2).sum(-1), 0.99)


def draw_noise(
    rng: np.random.Generator,
    residuals: np.ndarray,
    leverage: np.ndarray,
    parameters: int,
    draws: int,
) -> np.ndarray:
    """Draws noise (draws, n) with the distribution of residuals (n,).

    `leverage` (n,) is of each point; n must be greater than the number of
    fitted `parameters`.
    """
    n = len(residuals)
    spread = scale(residuals, parameters)
    free = residuals / np.sqrt(1 - leverage)
    free = free - free.mean()
    width = 1.06 * n**-0.2 * spread  # Silverman's rule
    noise = rng.choice(free, (draws, n))
    noise += width * rng.standard_normal((draws, n))
    size = np.sqrt(free.var() + width**2)
    return noise * (spread / size if size > 0 else 0.0)


def scale(residuals: np.ndarray, parameters: int) -> float:
    """Standard deviation of the noise: root of squares over freedom."""
    free = max(len(residuals) - parameters, 1)
    return float(np.sqrt((residuals**2).sum() / free))


def interval(
    estimate: np.ndarray | float, draws: np.ndarray, freedom: int
) -> np.ndarray:
    """95 % interval (2, ...), low and high end, about an estimate (...).

    Args:
      estimate: of the fit to the data.
      draws: (b, ...) of the refits; not finite ones are left out.
      freedom: degrees of freedom, runs less parameters.
    """
    from scipy import special  # its stats take a second to import

    draws = np.where(np.isfinite(draws), draws, np.nan)
    ends = 0.5 - LEVEL / 2, 0.5 + LEVEL / 2
    with warnings.catch_warnings():  # no draw is finite: no interval, NaN
        warnings.simplefilter("ignore", RuntimeWarning)
        low, high = np.nanquantile(draws, ends, axis=0)
    # Ratio of Student's quantile to the normal one.
    wide = special.stdtrit(max(freedom, 1), ends[1]) / special.ndtri(ends[1])
    centre = np.asarray(estimate, float)
    return np.stack(
        [centre - wide * (centre - low), centre + wide * (high - centre)]
    )
