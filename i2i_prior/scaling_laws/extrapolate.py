"""Held-out runs: does a law of smaller ones predict larger ones?

Prediction intervals of refits alone are too narrow where the law itself is
an approximation: on 240 published runs they covered 57 % of the larger ones.
So the largest budgets of what is fitted are left out in turns, and intervals
are widened until they hold the runs of these (split conformal prediction).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np

from i2i_prior.scaling_laws import isocurve, isoflop, offset, parametric
from i2i_prior.scaling_laws.bootstrap import interval
from i2i_prior.scaling_laws.points import FLAT, Point, column, groups
from i2i_prior.scaling_laws.uncertainty import Law, predicted, redraw

LEAST_RUNS = 8  # three more than there are parameters
CUTS = 3  # budgets that are left out in turns
DRAWS = 200
WIDEST = 1000.0  # times that an interval is widened, at most


@dataclass(frozen=True)
class Calibration:
    """How intervals did on budgets that were left out.

    Attributes:
      runs: that were predicted from smaller budgets.
      covered: share of them in the interval as it comes from refits.
      inflation: what intervals are widened by, 1 or more.
      covered_after: share of them in the widened interval.
    """

    runs: int
    covered: float
    inflation: float
    covered_after: float


@dataclass(frozen=True)
class Prediction:
    """A held-out run or optimum: predicted, then looked at.

    Attributes:
      id: of the run, or the budget's optimum.
      law: parametric; isoflop, or "isoflop, offset": of the loss's two forms.
      c: its FLOPs.
      predicted, actual: loss.
      low, high: 95 % prediction interval.
    """

    id: str
    law: str
    c: float
    predicted: float
    actual: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """Predicted over actual, less 1."""
        return self.predicted / self.actual - 1

    @property
    def inside(self) -> bool:
        """Whether the interval holds it, but for rounding."""
        near = FLAT * self.actual
        return self.low - near <= self.actual <= self.high + near


def enough(points: list[Point]) -> bool:
    """Whether the parametric law can be fitted."""
    sizes = {point.n for point in points}
    data = {point.d for point in points}
    return len(points) >= LEAST_RUNS and min(len(sizes), len(data)) >= 3


def law_of(points: list[Point], seed: int, draws: int) -> Law:
    """The parametric law of the points."""
    return _law_of(tuple(points), seed, draws)


# The test of the largest budget and the calibration leave out the same ones.
@functools.lru_cache(maxsize=8)
def _law_of(points: tuple[Point, ...], seed: int, draws: int) -> Law:
    n, d, loss = (column(points, name) for name in ("n", "d", "loss"))
    return redraw(parametric.fit(n, d, loss), list(points), seed, draws)


def calibrate(points: list[Point], seed: int) -> Calibration | None:
    """Leaves the largest budgets out in turns; None for too few."""
    budgets = groups(points)
    ratios: list[float] = []
    for cut in range(1, CUTS + 1):
        below = [p for group in budgets[:-cut] for p in group]
        if len(budgets) - cut < 3 or not enough(below):
            break
        above = budgets[-cut]
        law = law_of(below, seed, DRAWS)
        n, d, loss = (column(above, name) for name in ("n", "d", "loss"))
        centre, _, (low, high) = predicted(law, n, d, seed)
        with np.errstate(all="ignore"):
            side = np.where(loss > centre, high / centre, centre / low)
            gap = np.abs(np.log(loss / centre))
            ratio = gap / np.maximum(np.log(side), 1e-12)
        # A law that predicts no number there has missed by any width.
        ratios += list(np.nan_to_num(ratio, nan=WIDEST).clip(0, WIDEST))
    if not ratios:
        return None
    found = np.sort(ratios)
    place = min(int(np.ceil(0.95 * (len(found) + 1))), len(found)) - 1
    inflation = max(1.0, float(found[place]))
    return Calibration(
        runs=len(found),
        covered=float((found <= 1).mean()),
        inflation=inflation,
        covered_after=float((found <= inflation).mean()),
    )


def split(points: list[Point]) -> tuple[list[Point], list[Point], str]:
    """(fitted, held out, why these): role holdout, else the largest budget."""
    fitted = [point for point in points if point.role == "fit"]
    held = [point for point in points if point.role == "holdout"]
    if held:
        return fitted, held, "runs of role holdout"
    budgets = groups(fitted)
    below = [point for group in budgets[:-1] for point in group]
    if len(budgets) >= 3 and enough(below):
        return below, budgets[-1], "the largest budget, left out for this test"
    return fitted, [], "no run is held out, and too few to leave some out"


def test(
    fitted: list[Point], held: list[Point], seed: int
) -> tuple[list[Prediction], Calibration | None]:
    """Predicts the held-out runs from the fitted ones alone."""
    rows: list[Prediction] = []
    calibration = None
    if held and enough(fitted):
        calibration = calibrate(fitted, seed)
        law = law_of(fitted, seed, DRAWS)
        if calibration:
            law = replace(law, inflation=calibration.inflation)
        n, d = column(held, "n"), column(held, "d")
        centre, _, (low, high) = predicted(law, n, d, seed)
        rows += [
            Prediction(p.id, "parametric", p.c, *map(float, values))
            for p, *values in zip(
                held, centre, column(held, "loss"), low, high, strict=True
            )
        ]
    wide = widening(fitted, seed) if held else {}
    rows += [
        _widened(row, wide.get(row.law, 1.0))
        for row in _optima(fitted, held, seed)
    ]
    return rows, calibration


def widening(points: list[Point], seed: int) -> dict[str, float]:
    """What intervals of the isoFLOP laws of the loss are widened by.

    Until they hold the optima of the largest budgets, left out in turns: few,
    so it is the largest of what each of them takes. A law that could not be
    tried is not among the keys.
    """
    budgets = groups(points)
    found: dict[str, float] = {}
    for cut in range(1, CUTS + 1):
        if len(budgets) - cut < 3:
            break
        below = [p for group in budgets[:-cut] for p in group]
        for row in _optima(below, budgets[-cut], seed):
            end = row.high if row.actual > row.predicted else row.low
            room = max(abs(np.log(end / row.predicted)), 1e-12)
            ratio = abs(np.log(row.actual / row.predicted)) / room
            worst = max(found.get(row.law, 1.0), float(ratio))
            found[row.law] = min(worst, WIDEST)
    return found


def _widened(row: Prediction, ratio: float) -> Prediction:
    ends = (
        row.predicted * (end / row.predicted) ** ratio
        for end in (row.low, row.high)
    )
    low, high = map(float, ends)
    return replace(row, low=low, high=high)


def _optima(
    fitted: list[Point], held: list[Point], seed: int
) -> list[Prediction]:
    """Lowest losses of held-out budgets by the isoFLOP law, as drawn.

    Of a budget's parabola where it has one; else of its best run, which is
    at the optimum at best.
    """
    rng = np.random.default_rng(seed)
    made = isoflop.fit(fitted, rng, DRAWS) if held else ""
    if isinstance(made, str) or not made.freedom:
        return []
    laws: dict[str, isoflop.PowerLaw | offset.OffsetLaw] = {
        "isoflop": made.loss
    }
    with_offset = offset.of_optima(made)
    if with_offset is not None:
        laws["isoflop, offset"] = with_offset
    rows = []
    for group in groups(held):
        curve = isocurve.vertex(group)
        if curve is None and group[0].role != "holdout":
            continue  # the few runs of a budget that is not complete
        best = min(group, key=lambda point: point.loss)
        c, actual = best.c, best.loss
        name = f"best of {len(group)} at {c:.3g} FLOPs, {best.id}"
        if curve is not None:
            c, actual = curve.c, curve.loss_opt
            name = f"optimum at {c:.3g} FLOPs"
        noise = 0.0 if np.isnan(made.noise) else made.noise
        for law, curved in laws.items():
            drawn = curved.drawn(c)
            drawn = drawn * np.exp(noise * rng.standard_normal(len(drawn)))
            centre = float(curved(c))
            ends = interval(np.log(centre), np.log(drawn), made.freedom)
            low, high = map(float, np.exp(ends))
            rows.append(
                Prediction(name, law, c, centre, float(actual), low, high)
            )
    return rows
