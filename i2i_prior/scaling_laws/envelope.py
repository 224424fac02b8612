"""Loss envelope: the lowest loss at each compute, and the size that has it.

Approach 1 of Hoffmann et al. (arXiv 2203.15556): over training curves where
there are some, else over the final losses, budget by budget.
"""

from dataclasses import dataclass

import numpy as np

from i2i_prior.scaling_laws.bootstrap import interval
from i2i_prior.scaling_laws.points import (
    Curve,
    Point,
    column,
    groups,
    mean_flops,
)

LEAST = 3  # points that a power law takes
GRID = 40  # points on the FLOPs axis, evenly in the logarithm


@dataclass(frozen=True)
class Envelope:
    """loss = coefficient x C^exponent along the lowest losses."""

    flops: np.ndarray  # (k,)
    loss: np.ndarray  # (k,)
    n: np.ndarray  # (k,) size of the run that is lowest
    coefficient: float
    exponent: float
    interval: np.ndarray  # (2,) of the exponent, 95 %, bootstrap of the runs
    size_exponent: float | None  # of the law of n; None for one size
    of_curves: bool  # over training curves, not ends of runs


def fit(
    points: list[Point],
    curves: list[Curve],
    rng: np.random.Generator,
    draws: int,
) -> Envelope | None:
    """Fits the envelope; None for fewer than three points of it."""
    curves = [c for c in curves if len(c.flops) >= 2 and c.point.role == "fit"]
    of_curves = len(curves) >= 2
    if of_curves:
        flops, table = _of_curves(curves)
        sizes = np.array([curve.point.n for curve in curves])
    else:
        flops, table = _of_points(points)
        sizes = column(points, "n")
    there = _front(table)
    flops, table = flops[there], table[:, there]
    if len(flops) < LEAST or np.ptp(np.log(flops)) < 1e-6:
        return None
    lowest = table.min(0)
    winner = sizes[table.argmin(0)]
    slope, constant = np.polyfit(np.log(flops), lowest, 1)
    slopes = []
    for _ in range(min(draws, 500)):
        pick = table[rng.integers(len(table), size=len(table))]
        good = _front(pick)
        if good.sum() >= LEAST:
            line = np.polyfit(np.log(flops[good]), pick[:, good].min(0), 1)
            slopes.append(line[0])
    ends = interval(slope, np.array(slopes or [np.nan]), len(flops) - 2)
    size_exponent = None
    if len(set(winner)) > 1:
        line = np.polyfit(np.log(flops), np.log(winner), 1)
        size_exponent = float(line[0])
    return Envelope(
        flops=flops,
        loss=np.exp(lowest),
        n=winner,
        coefficient=float(np.exp(constant)),
        exponent=float(slope),
        interval=ends,
        size_exponent=size_exponent,
        of_curves=of_curves,
    )


def _front(table: np.ndarray) -> np.ndarray:
    """Mask (k,) of (runs, k): columns below all losses of less compute.

    Budgets with few runs, and curves far from their end, lie above it.
    """
    lowest = table.min(0)
    before = np.minimum.accumulate(np.concatenate([[np.inf], lowest[:-1]]))
    return lowest < before


def _of_curves(curves: list[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """FLOPs (k,) and log losses (curves, k); infinite outside a curve."""
    flops = np.concatenate([curve.flops for curve in curves])
    grid = np.geomspace(flops.min(), flops.max(), GRID)
    x, outside = np.log(grid), {"left": np.inf, "right": np.inf}
    table = [
        np.interp(x, np.log(curve.flops), np.log(curve.loss), **outside)
        for curve in curves
    ]
    return grid, np.array(table)


def _of_points(points: list[Point]) -> tuple[np.ndarray, np.ndarray]:
    """FLOPs (k,) and log losses (runs, k); infinite in other budgets."""
    budgets = groups(points)
    flops = np.array([mean_flops(group) for group in budgets])
    ids = [{point.id for point in group} for group in budgets]
    table = [
        [np.log(p.loss) if p.id in own else np.inf for own in ids]
        for p in points
    ]
    return flops, np.array(table)
