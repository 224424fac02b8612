"""Optima of isoFLOP curves, and their power laws over budgets.

Approach 2 of Hoffmann et al. (arXiv 2203.15556): a parabola in log N through
the losses of each budget; its vertex is the compute-optimal size and loss;
N_opt, D_opt and the loss are power laws of C. `isocurve` has the curves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from i2i_prior.scaling_laws.bootstrap import draw_noise, leverages, scale
from i2i_prior.scaling_laws.isocurve import (
    FEW_SIZES,
    TUNING,
    IsoCurve,
    akima_optima,
    basis_of,
    curve_of,
    log_tokens,
    parabolas,
    vertices,
)
from i2i_prior.scaling_laws.points import Point, groups, mean_flops
from i2i_prior.scaling_laws.power_laws import (
    OffsetLaw,
    PowerLaw,
    fit_offset_law,
    fit_power_law,
)


@dataclass(frozen=True)
class IsoFlop:
    """Power laws over budgets of the optima of isoFLOP curves."""

    curves: list[IsoCurve]  # those with an optimum that counts, ascending
    n_opt: PowerLaw
    d_opt: PowerLaw
    loss: PowerLaw
    akima: PowerLaw  # of N_opt from Akima optima
    offset: OffsetLaw | None  # of the loss; None for too few budgets
    freedom: int  # degrees of freedom of the draws; 0: they are NaN
    noise: float  # relative standard deviation of a loss about its parabola
    # Of optimal sizes, and of their losses, about their laws over the scatter
    # that noise explains; above 1 where that is significant, and the draws are
    # widened by it.
    scatter: tuple[float, float]
    dropped: list[tuple[float, str]]  # (budget, why) of curves without optimum


def fit(
    points: list[Point], rng: np.random.Generator, draws: int
) -> IsoFlop | str:
    """Fits curves and laws; a sentence where fewer than two have an optimum."""
    made = [(mean_flops(group), curve_of(group)) for group in groups(points)]
    curves = [curve for _, curve in made if isinstance(curve, IsoCurve)]
    dropped = [(budget, why) for budget, why in made if isinstance(why, str)]
    dropped.sort(key=lambda pair: pair[1] != FEW_SIZES)
    if len(curves) < 2:
        has = "has" if len(curves) == 1 else "have"
        return (
            "isoFLOP laws need two budgets with an optimum each, and here "
            f"{len(curves)} of {len(made)} {has} one"
        )
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
    estimate = np.log([[c.n_opt, c.d_opt, c.loss_opt, c.akima] for c in curves])
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
        split = np.split(many, places, axis=1)
        redrawn = [
            _redrawn(curve, base + extra, width)
            for curve, base, extra in zip(curves, fitted, split, strict=True)
        ]
        drawn = np.stack(redrawn, axis=1)
    (n_opt, n_scatter), (d_opt, _), (loss, loss_scatter), (akima, _) = (
        fit_power_law(log_c, estimate[:, k], drawn[..., k]) for k in range(4)
    )
    c = np.array([curve.c for curve in curves])
    return IsoFlop(
        *(curves, n_opt, d_opt, loss, akima),
        offset=fit_offset_law(c, estimate[:, 2], drawn[..., 2]),
        freedom=freedom,
        noise=noise,
        scatter=(n_scatter, loss_scatter),
        dropped=dropped,
    )


def _redrawn(
    curve: IsoCurve, losses: np.ndarray, width: float | None
) -> np.ndarray:
    """Logs (b, 4) of n_opt, d_opt, loss_opt and akima of redrawn losses."""
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
    """Draws from the scatter about the laws, as parabolas left no residuals.

    Returns draws (b, k, 4) and degrees of freedom; of two budgets NaN and 0.
    """
    freedom = len(log_c) - 2
    if freedom < 1:
        return np.full((draws, *estimate.shape), np.nan), 0
    line = np.polyfit(log_c, estimate, 1)
    gaps = estimate - np.outer(log_c, line[0]) - line[1]
    spread = np.sqrt((gaps**2).sum(0) / freedom)
    noise = rng.standard_normal((draws, *estimate.shape))
    return estimate + noise * spread, freedom
