"""The best learning rate of each size, and its power law over sizes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from i2i_prior.scaling.laws.isocurve import parabolas, vertices
from i2i_prior.scaling.laws.points import Point, column


@dataclass(frozen=True)
class Rate:
    """One size: its learning rates (k,), losses (k,), and the best rate.

    `edge` says that the best is the lowest or highest that was tried.
    """

    n: float
    rates: np.ndarray
    loss: np.ndarray
    best: float
    edge: bool


@dataclass(frozen=True)
class RateLaw:
    """rate = coefficient x N^exponent; spread is the log scatter about it,
    None where two sizes leave none."""

    sizes: list[Rate]
    coefficient: float
    exponent: float
    spread: float | None

    def __call__(self, n: float) -> float:
        """The best learning rate of a size."""
        return float(self.coefficient * n**self.exponent)


def fit(points: list[Point]) -> tuple[list[Rate], RateLaw | None]:
    """Best rates of sizes with three rates or more; a law from two sizes on.

    Args:
      points: of role tune, or of any role; those of one size and as many
        tokens are compared.
    """
    known = [p for p in points if p.learning_rate and p.learning_rate > 0]
    places: dict[tuple[float, float], list[Point]] = {}
    for point in known:
        places.setdefault((point.n, point.d), []).append(point)
    found = []
    for (n, _), group in sorted(places.items()):
        group = sorted(group, key=lambda point: point.learning_rate or 0)
        rates, loss = column(group, "learning_rate"), column(group, "loss")
        if len(set(rates)) >= 3:
            found.append(_best(n, rates, loss))
    if len({rate.n for rate in found}) < 2:
        return found, None
    x = np.log([rate.n for rate in found])
    y = np.log([rate.best for rate in found])
    exponent, constant = np.polyfit(x, y, 1)
    gaps = y - constant - exponent * x
    free = len(found) - 2
    return found, RateLaw(
        found,
        float(np.exp(constant)),
        float(exponent),
        float(np.sqrt((gaps**2).sum() / free)) if free > 0 else None,
    )


def _best(n: float, rates: np.ndarray, loss: np.ndarray) -> Rate:
    """By a parabola in log rate through the lowest and what is around it."""
    lowest = int(np.argmin(loss))
    near = slice(max(lowest - 2, 0), lowest + 3)
    x = np.log(rates[near]) - np.log(rates[lowest])
    best = rates[lowest]
    if len(set(x)) >= 3:
        vertex, _ = vertices(parabolas(x, loss[None, near] / loss.mean()))
        if np.isfinite(vertex[0]) and x.min() <= vertex[0] <= x.max():
            best = rates[lowest] * np.exp(vertex[0])
    return Rate(n, rates, loss, float(best), lowest in (0, len(loss) - 1))
