"""All fits of a table of runs."""

from dataclasses import dataclass, replace

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.scaling_laws import (
    envelope,
    extrapolate,
    isoflop,
    paired,
    parametric,
    rank_correlation,
    rates,
    uncertainty,
)
from i2i_prior.scaling_laws.envelope import Envelope
from i2i_prior.scaling_laws.isoflop import IsoFlop
from i2i_prior.scaling_laws.paired import Pair
from i2i_prior.scaling_laws.parametric import ParametricFit
from i2i_prior.scaling_laws.points import Point, Table, column
from i2i_prior.scaling_laws.rank_correlation import MetricRank
from i2i_prior.scaling_laws.rates import Rate, RateLaw


@dataclass(frozen=True)
class LawFit:
    """Result of `fit_all`; None where there are too few runs for a part."""

    table: Table
    cost: uncertainty.Cost  # FLOPs over sizes and tokens
    huber: ParametricFit | None
    law: uncertainty.ParametricLaw | None  # `huber` with draws, not centred
    lad: np.ndarray | None  # (5,) of `NAMES` by least absolute deviations
    squares: np.ndarray | None  # (5,) by least squares in log loss
    isoflop: IsoFlop | None  # laws of the optima of isoFLOP curves
    envelope: Envelope | None  # law of the lowest losses
    held: list[extrapolate.Prediction]  # of held-out runs
    why_held: str  # a phrase that names these
    held_calibration: extrapolate.Calibration | None  # of their intervals
    calibration: extrapolate.Calibration | None  # of the intervals of `law`
    widening: dict[str, float]  # of isoFLOP losses, `extrapolate.widening`
    rates: list[Rate]  # best learning rates
    rate_law: RateLaw | None  # of them over sizes
    pairs: list[Pair]  # neighbours in size, compared image by image
    metrics: list[MetricRank]  # rank correlations with the loss
    missing: list[str]  # sentences on parts that could not be fitted

    @property
    def points(self) -> list[Point]:
        """The runs that laws are fitted to."""
        return self.table.of("fit")

    @property
    def largest(self) -> float:
        """FLOPs of the largest fitted run."""
        return float(column(self.points, "c").max())

    def residuals(self, points: list[Point]) -> np.ndarray:
        """Residuals (k,) of runs in log loss: measured less predicted."""
        assert self.law is not None
        n, d, loss = (column(points, name) for name in ("n", "d", "loss"))
        return np.log(loss) - uncertainty.log_loss(self.law.values, n, d)


def fit_all(table: Table, seed: int = 0, draws: int = 1000) -> LawFit:
    """Fits all that there are runs enough for, `draws` refits an interval.

    Raises:
      UserError: for too few runs for any law.
    """
    points = table.of("fit")
    rng = np.random.default_rng(seed)
    missing: list[str] = []
    huber = law = lad = squares = calibration = None
    if extrapolate.enough(points):
        n, d, loss = (column(points, name) for name in ("n", "d", "loss"))
        huber = parametric.fit(n, d, loss)
        calibration = extrapolate.calibrate(points, seed)
        law = uncertainty.redraw(huber, points, seed, draws)
        if calibration:
            law = replace(law, inflation=calibration.inflation)
        others = [parametric.fit(n, d, loss, delta) for delta in (1e-6, 1e3)]
        lad, squares = (
            uncertainty.uncentre(fit.theta, fit.centre) for fit in others
        )
    else:
        missing.append(
            f"the parametric law takes {extrapolate.LEAST_RUNS} runs of 3 "
            f"sizes and 3 token counts, and there are {len(points)} of "
            f"{len({p.n for p in points})} and {len({p.d for p in points})}"
        )
    made = isoflop.fit(points, rng, draws)
    optima = None if isinstance(made, str) else made
    if isinstance(made, str):
        missing.append(made)
    if huber is None and optima is None:
        raise UserError(
            f"too few runs for a law: {'; '.join(missing)}"
            f"{_not_fitted(table)}; add runs, or wait for those that still "
            "train"
        )
    lower, held, why = extrapolate.split(table.points)
    predictions, held_calibration = extrapolate.predict_held_out(
        lower, held, seed
    )
    best, rate_law = rates.fit(table.of("tune") or points)
    return LawFit(
        table=table,
        cost=uncertainty.cost_of(points),
        huber=huber,
        law=law,
        lad=lad,
        squares=squares,
        isoflop=optima,
        envelope=envelope.fit(points, table.curves, rng, draws),
        held=predictions,
        why_held=why,
        held_calibration=held_calibration,
        calibration=calibration,
        widening=extrapolate.widening(points, seed),
        rates=best,
        rate_law=rate_law,
        pairs=paired.compare(table),
        metrics=rank_correlation.all_metrics(table),
        missing=missing,
    )


def _not_fitted(table: Table) -> str:
    """Counts of the runs that are not fitted, for an error message."""
    counts = {
        "held out": len(table.of("holdout")),
        "of role tune": len(table.of("tune")),
        "left out": len(table.excluded),
    }
    parts = [f"{count} are {kind}" for kind, count in counts.items() if count]
    first = f" ({': '.join(table.excluded[0])})" if table.excluded else ""
    return f"; {', '.join(parts)}{first}" if parts else ""
