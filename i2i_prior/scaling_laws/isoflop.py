"""Optima of isoFLOP curves, and their power laws over budgets.

Approach 2 of Hoffmann et al. (arXiv 2203.15556): a parabola in log N through
the losses of each budget; its vertex is the compute-optimal size and loss;
N_opt, D_opt and the loss are power laws of C. `isocurve` has the curves.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from i2i_prior.scaling_laws.bootstrap import draw_noise, leverages, scale
from i2i_prior.scaling_laws.isocurve import (
    LEAST,
    TUNING,
    IsoCurve,
    akima_optima,
    basis_of,
    curve_of,
    log_tokens,
    parabolas,
    vertices,
)
from i2i_prior.scaling_laws.points import Point, column, groups


@dataclass(frozen=True)
class PowerLaw:
    """y = coefficient x C^exponent, with draws (b, 2) of (log coefficient,
    exponent)."""

    coefficient: float
    exponent: float
    draws: np.ndarray

    def __call__(self, c: np.ndarray | float) -> np.ndarray:
        """y at budgets c."""
        return self.coefficient * np.asarray(c, float) ** self.exponent

    def drawn(self, c: float) -> np.ndarray:
        """(b,) y of the draws at one budget."""
        return np.exp(self.draws[:, 0] + self.draws[:, 1] * np.log(c))


@dataclass(frozen=True)
class IsoFlop:
    """The fit.

    Attributes:
      curves: those whose optimum counts, budgets ascending.
      n_opt, d_opt, loss: power laws over budgets.
      akima: N_opt's law from Akima optima.
      loss_drawn: (b, curves) log losses at the optima, redrawn.
      freedom: degrees of freedom behind the draws; 0: they are NaN.
      noise: relative standard deviation of a loss about its parabola.
      scatter: of optimal sizes, and of their losses, about their laws over
        what noise explains; above 1 where that is significant, and the draws
        are widened by it.
      dropped: (budget, why) of curves without an optimum.
    """

    curves: list[IsoCurve]
    n_opt: PowerLaw
    d_opt: PowerLaw
    loss: PowerLaw
    akima: PowerLaw
    loss_drawn: np.ndarray
    freedom: int
    noise: float
    scatter: tuple[float, float]
    dropped: list[tuple[float, str]] = field(default_factory=list)


def fit(
    points: list[Point], rng: np.random.Generator, draws: int
) -> IsoFlop | str:
    """Fits curves and laws; a sentence where there are too few budgets."""
    curves, dropped = [], []
    for group in groups(points):
        budget = float(np.exp(np.log(column(group, "c")).mean()))
        if len({point.n for point in group}) < LEAST:
            dropped.append((budget, f"fewer than {LEAST} sizes"))
            continue
        curves.append((budget, group))
    made = [curve_of(budget, group) for budget, group in curves]
    kept = [curve for curve in made if isinstance(curve, IsoCurve)]
    dropped += [
        (budget, curve)
        for (budget, _), curve in zip(curves, made, strict=True)
        if isinstance(curve, str)
    ]
    if len(kept) < 2:
        has = "has" if len(kept) == 1 else "have"
        return (
            "isoFLOP laws need two budgets with an optimum each, and here "
            f"{len(kept)} of {len(kept) + len(dropped)} {has} one"
        )
    return _laws(kept, dropped, rng, draws)


def _laws(
    curves: list[IsoCurve],
    dropped: list[tuple[float, str]],
    rng: np.random.Generator,
    draws: int,
) -> IsoFlop:
    residuals, leverage, fitted = [], [], []
    for curve in curves:
        x = np.log(curve.n) - np.log(curve.n).mean()
        basis = basis_of(x)
        fitted.append(basis @ curve.parabola / curve.loss_opt)
        residuals.append(curve.loss / curve.loss_opt - fitted[-1])
        leverage.append(leverages(basis))
    used = 3 * len(curves)
    everything = np.concatenate(residuals)
    freedom = len(everything) - used
    estimate = np.log(
        [
            [curve.n_opt, curve.d_opt, curve.loss_opt, curve.akima]
            for curve in curves
        ]
    )
    log_c = np.log([curve.c for curve in curves])
    if freedom < 1:
        drawn, freedom = _by_scatter(estimate, log_c, rng, draws)
        noise = float("nan")
    else:
        noise = scale(everything, used)
        many = draw_noise(
            rng, everything, np.concatenate(leverage), used, draws
        )
        width = TUNING * noise or None
        places = np.cumsum([len(curve.n) for curve in curves])[:-1]
        drawn = np.stack(
            [
                _redrawn(curve, base + extra, width)
                for curve, base, extra in zip(
                    curves, fitted, np.split(many, places, axis=1), strict=True
                )
            ],
            axis=1,
        )
    made = [_power_law(log_c, estimate[:, k], drawn[..., k]) for k in range(4)]
    (n_opt, wide), (d_opt, _), (loss, high), (akima, _) = made
    return IsoFlop(
        curves=curves,
        n_opt=n_opt,
        d_opt=d_opt,
        loss=loss,
        akima=akima,
        loss_drawn=drawn[..., 2],
        freedom=freedom,
        noise=noise,
        scatter=(wide, high),
        dropped=dropped,
    )


def _redrawn(
    curve: IsoCurve, losses: np.ndarray, width: float | None
) -> np.ndarray:
    """log of (n_opt, d_opt, loss_opt, akima) of redrawn losses: (b, 4)."""
    x = np.log(curve.n) - np.log(curve.n).mean()
    x_opt, lowest = vertices(parabolas(x, losses, width))
    # A draw without an optimum says that it may lie anywhere near the edge.
    far = np.abs(x_opt - np.median(x)) > 2 * np.ptp(x)
    x_opt = np.where(far | (lowest <= 0), np.nan, x_opt)
    loss_opt = np.where(np.isfinite(x_opt), lowest, np.nan) * curve.loss_opt
    return np.stack(
        [
            x_opt + np.log(curve.n).mean(),
            log_tokens(curve.n, curve.d, x_opt),
            np.log(loss_opt),
            np.log(akima_optima(curve.n, losses)),
        ],
        axis=-1,
    )


def _by_scatter(
    estimate: np.ndarray,
    log_c: np.ndarray,
    rng: np.random.Generator,
    draws: int,
) -> tuple[np.ndarray, int]:
    """Draws where parabolas leave no residuals: of scatter about the laws.

    Two budgets leave none of that either: NaN, and no degree of freedom.
    """
    freedom = len(log_c) - 2
    if freedom < 1:
        return np.full((draws, *estimate.shape), np.nan), 0
    line = np.polyfit(log_c, estimate, 1)
    gaps = estimate - np.outer(log_c, line[0]) - line[1]
    spread = np.sqrt((gaps**2).sum(0) / freedom)
    noise = rng.standard_normal((draws, *estimate.shape))
    return estimate + noise * spread, freedom


def _power_law(
    log_c: np.ndarray, estimate: np.ndarray, drawn: np.ndarray
) -> tuple[PowerLaw, float]:
    """A line through log optima (k,), and through each draw of them (b, k).

    Optima count by their precision. Where they scatter about the line more
    than their noise explains (chi squared, 1 %), draws are widened by the
    square root of chi squared a degree (Birge's ratio).
    """
    from scipy import special

    there = np.isfinite(drawn).any(0)
    if not there.any():
        line = _lines(log_c, estimate[None], np.ones(len(log_c)))[0]
        blank = np.full((len(drawn), 2), np.nan)
        return PowerLaw(float(np.exp(line[0])), float(line[1]), blank), 1.0
    spread = np.full(len(log_c), np.inf)
    spread[there] = np.nanstd(drawn[:, there], axis=0)
    typical = np.median(spread[there])
    spread = np.maximum(spread, max(typical / 2, 1e-9))
    weights = 1 / spread**2
    line = _lines(log_c, estimate[None], weights)[0]
    lines = _lines(log_c, drawn, weights)
    chi2 = float((weights * (estimate - line[0] - line[1] * log_c) ** 2).sum())
    freedom = len(log_c) - 2
    factor = 1.0
    if freedom > 0 and typical > 1e-9 and special.chdtrc(freedom, chi2) < 0.01:
        factor = float(np.sqrt(chi2 / freedom))
    centre = np.nanmedian(lines, axis=0)
    lines = centre + factor * (lines - centre)
    return PowerLaw(float(np.exp(line[0])), float(line[1]), lines), factor


def _lines(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted lines (b, 2), constant first; y (b, k) may have NaN."""
    there = np.isfinite(y)
    w = np.where(there, weights, 0.0)
    y = np.where(there, y, 0.0)
    total = w.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_x, mean_y = (w @ x) / total, (w * y).sum(-1) / total
        gap = x - mean_x[:, None]
        slope = (w * gap * (y - mean_y[:, None])).sum(-1)
        slope = slope / (w * gap**2).sum(-1)
    return np.stack([mean_y - slope * mean_x, slope], -1)
