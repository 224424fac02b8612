"""All fits of a table of runs, and what they are doubted for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.scaling_laws import (
    envelope,
    extrapolate,
    isoflop,
    offset,
    paired,
    parametric,
    rank_correlation,
    rates,
)
from i2i_prior.scaling_laws.envelope import Envelope
from i2i_prior.scaling_laws.extrapolate import (
    LEAST_RUNS,
    Calibration,
    Prediction,
)
from i2i_prior.scaling_laws.isoflop import IsoFlop
from i2i_prior.scaling_laws.offset import OffsetLaw
from i2i_prior.scaling_laws.paired import Pair
from i2i_prior.scaling_laws.parametric import Parametric
from i2i_prior.scaling_laws.points import Point, Table, column
from i2i_prior.scaling_laws.rank_correlation import Second
from i2i_prior.scaling_laws.rates import Rate, RateLaw
from i2i_prior.scaling_laws.uncertainty import Cost, Law, cost_of, plain, redraw


@dataclass(frozen=True)
class Fitted:
    """What `fit_all` finds; None where there is too little for it.

    Attributes:
      table: the runs.
      cost: how FLOPs come of sizes and tokens.
      huber: the parametric fit; `law` is it with draws, in plain units.
      lad: (5,) E, A, B, alpha, beta by least absolute deviations.
      squares: (5,) by least squares in log loss.
      isoflop: laws of the optima, `offset` that of the loss with an offset.
      envelope: of the lowest losses.
      held: predictions of held-out runs, `why_held` which these are, and
        `held_calibration` how their intervals were made.
      calibration: of the intervals of `law`.
      widening: of the isoFLOP laws of the loss, see `extrapolate.widening`.
      rates: best learning rates, `rate_law` over sizes.
      pairs: neighbours in size, and whether the validation tells them apart.
      others: metrics beside the loss.
      missing: sentences on what could not be fitted.
    """

    table: Table
    cost: Cost
    huber: Parametric | None
    law: Law | None
    lad: np.ndarray | None
    squares: np.ndarray | None
    isoflop: IsoFlop | None
    offset: OffsetLaw | None
    envelope: Envelope | None
    held: list[Prediction]
    why_held: str
    held_calibration: Calibration | None
    calibration: Calibration | None
    widening: dict[str, float]
    rates: list[Rate]
    rate_law: RateLaw | None
    pairs: list[Pair]
    others: list[Second]
    missing: list[str]

    @property
    def points(self) -> list[Point]:
        """The runs that laws are fitted to."""
        return self.table.of("fit")


def _elsewhere(table: Table) -> str:
    """Where runs are that are not fitted."""
    counts = {
        "held out": len(table.of("holdout")),
        "of role tune": len(table.of("tune")),
        "left out": len(table.excluded),
    }
    told = [f"{count} are {what}" for what, count in counts.items() if count]
    first = f" ({': '.join(table.excluded[0])})" if table.excluded else ""
    return f"; {', '.join(told)}{first}" if told else ""


def fit_all(table: Table, seed: int = 0, draws: int = 1000) -> Fitted:
    """Fits everything there is enough for.

    Args:
      table: the runs.
      seed: of all that is drawn.
      draws: refits behind each interval.

    Raises:
      UserError: where there is not enough for any law.
    """
    points = table.of("fit")
    rng = np.random.default_rng(seed)
    missing: list[str] = []
    huber = law = lad = squares = calibration = None
    if extrapolate.enough(points):
        n, d, loss = (column(points, name) for name in ("n", "d", "loss"))
        huber = parametric.fit(n, d, loss)
        calibration = extrapolate.calibrate(points, seed)
        law = redraw(huber, points, seed, draws)
        if calibration:
            law = replace(law, inflation=calibration.inflation)
        others = [parametric.fit(n, d, loss, width) for width in (1e-6, 1e3)]
        lad, squares = (plain(fit.theta, fit.centre) for fit in others)
    else:
        missing.append(
            f"the parametric law takes {LEAST_RUNS} runs of 3 sizes and 3 "
            f"token counts, and there are {len(points)} of "
            f"{len({p.n for p in points})} and {len({p.d for p in points})}"
        )
    made = isoflop.fit(points, rng, draws)
    optima = None if isinstance(made, str) else made
    if isinstance(made, str):
        missing.append(made)
    if huber is None and optima is None:
        raise UserError(
            f"too few runs for a law: {'; '.join(missing)}"
            f"{_elsewhere(table)}; add runs, or wait for those that still train"
        )
    lower, held, why = extrapolate.split(table.points)
    predictions, held_calibration = extrapolate.test(lower, held, seed)
    tuned = table.of("tune") or points
    best, rate_law = rates.fit(tuned)
    return Fitted(
        table=table,
        cost=cost_of(points),
        huber=huber,
        law=law,
        lad=lad,
        squares=squares,
        isoflop=optima,
        offset=None if optima is None else offset.of_optima(optima),
        envelope=envelope.fit(points, table.curves, rng, draws),
        held=predictions,
        why_held=why,
        held_calibration=held_calibration,
        calibration=calibration,
        widening=extrapolate.widening(points, seed),
        rates=best,
        rate_law=rate_law,
        pairs=paired.compare(table),
        others=rank_correlation.beside(table),
        missing=missing,
    )
