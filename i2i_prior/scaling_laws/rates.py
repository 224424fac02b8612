"""The best learning rate of each size, and its power law over sizes."""

from dataclasses import dataclass

import numpy as np

from i2i_prior.scaling_laws.isoflop import parabolas, vertices
from i2i_prior.scaling_laws.points import Point, column


@dataclass(frozen=True)
class Rate:
    """Learning rates of one size, and the best of them."""

    n: float
    rates: np.ndarray  # (k,)
    loss: np.ndarray  # (k,) means over seeds
    best: float
    edge: bool  # the best is the lowest or highest tried
    series: str = ""  # of the runs compared


@dataclass(frozen=True)
class RateLaw:
    """rate = coefficient x N^exponent."""

    sizes: list[float]  # N that it is fitted to
    coefficient: float
    exponent: float
    spread: float | None  # log scatter about it; None for two sizes

    def __call__(self, n: float) -> float:
        """The best learning rate of a size."""
        return float(self.coefficient * n**self.exponent)


def fit(points: list[Point]) -> tuple[list[Rate], RateLaw | None]:
    """Finds best rates of sizes with three rates or more, and their law.

    Points of one series, one size and as many tokens are compared. The law is
    None for one size, or for several series.
    """
    places: dict[tuple[str, float, float], list[Point]] = {}
    for point in points:
        if point.learning_rate and point.learning_rate > 0:
            key = point.series, point.n, point.d
            places.setdefault(key, []).append(point)
    found = []
    for (series, n, _), group in sorted(places.items()):
        everything = column(group, "learning_rate")
        loss = column(group, "loss")
        rates = np.unique(everything)
        means = np.array([loss[everything == rate].mean() for rate in rates])
        if len(rates) >= 3:
            found.append(_best(n, rates, means, series))
    one = len({rate.series for rate in found}) == 1
    return found, law_of(found) if one else None


def law_of(found: list[Rate]) -> RateLaw | None:
    """The power law of best rates over sizes; None for fewer than two."""
    if len({rate.n for rate in found}) < 2:
        return None
    sizes = [rate.n for rate in found]
    x, y = np.log(sizes), np.log([rate.best for rate in found])
    exponent, constant = np.polyfit(x, y, 1)
    gaps = y - constant - exponent * x
    free = len(found) - 2
    return RateLaw(
        sizes,
        float(np.exp(constant)),
        float(exponent),
        float(np.sqrt((gaps**2).sum() / free)) if free > 0 else None,
    )


def by_series(found: list[Rate]) -> dict[str, list[Rate]]:
    """The sizes of each series."""
    series: dict[str, list[Rate]] = {}
    for rate in found:
        series.setdefault(rate.series, []).append(rate)
    return series


def drift(found: list[Rate]) -> float:
    """Ratio of the largest best rate to the smallest; 1: one suits all."""
    best = [rate.best for rate in found]
    return max(best) / min(best)


def _best(n: float, rates: np.ndarray, loss: np.ndarray, series: str) -> Rate:
    """Fits a parabola in log rate to the lowest loss and two on each side."""
    lowest = int(np.argmin(loss))
    near = slice(max(lowest - 2, 0), lowest + 3)
    x = np.log(rates[near]) - np.log(rates[lowest])
    best = rates[lowest]
    if len(set(x)) >= 3:
        vertex, _ = vertices(parabolas(x, loss[None, near] / loss.mean()))
        if np.isfinite(vertex[0]) and x.min() <= vertex[0] <= x.max():
            best = rates[lowest] * np.exp(vertex[0])
    edge = lowest in (0, len(loss) - 1)
    return Rate(n, rates, loss, float(best), edge, series)
