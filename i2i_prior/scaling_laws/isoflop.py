"""Optima of isoFLOP curves, and their power laws over budgets.

Approach 2 of Hoffmann et al. (arXiv 2203.15556): a parabola in log N through
the losses of each budget; its vertex is the compute-optimal size and loss;
N_opt, D_opt and the loss are power laws of C. A parabola is biased where the
curve is not symmetric (arXiv 2603.22339), so the minimum of an Akima
interpolation is given with its vertex.
"""

from dataclasses import dataclass

import numpy as np

from i2i_prior.scaling_laws.bootstrap import draw_noise, leverages, scale
from i2i_prior.scaling_laws.points import (
    FLAT,
    Point,
    column,
    groups,
    mean_flops,
)
from i2i_prior.scaling_laws.power_laws import (
    OffsetLaw,
    PowerLaw,
    fit_offset_law,
    fit_power_law,
)

LEAST = 3  # sizes that a parabola takes
FEW_SIZES = f"fewer than {LEAST} sizes"
TUNING = 1.345  # of Huber's loss, in standard deviations: 95 % efficient


@dataclass(frozen=True)
class IsoCurve:
    """Curve of one budget."""

    c: float  # its FLOPs, geometric mean
    n: np.ndarray  # (m,) of its runs, by size, as are d and loss
    d: np.ndarray
    loss: np.ndarray
    parabola: np.ndarray  # (3,) loss over centred log n, constant first
    n_opt: float  # at the vertex
    d_opt: float
    loss_opt: float
    akima: float  # size at the minimum of the Akima interpolation
    edge: bool  # the optimum is at or beyond the smallest or largest run


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
        curves=curves,
        n_opt=n_opt,
        d_opt=d_opt,
        loss=loss,
        akima=akima,
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


def curve_of(group: list[Point]) -> IsoCurve | str:
    """The curve of one budget's runs; or a sentence why it has no optimum."""
    if len({point.n for point in group}) < LEAST:
        return FEW_SIZES
    n, d, loss = (column(group, name) for name in ("n", "d", "loss"))
    if np.ptp(loss) < FLAT * loss.min():
        return "its losses are all equal: no optimum"
    x = np.log(n) - np.log(n).mean()
    parabola = parabolas(x, loss[None] / loss.mean())[0] * loss.mean()
    x_opt, loss_opt = vertices(parabola)
    if not np.isfinite(x_opt):
        return "its losses have no minimum: no optimum"
    if abs(x_opt - np.median(x)) > np.ptp(x):
        return "the optimum lies far beyond its sizes"
    lowest = akima_optima(n, loss[None])[0]
    return IsoCurve(
        c=mean_flops(group),
        n=n,
        d=d,
        loss=loss,
        parabola=parabola,
        n_opt=float(np.exp(x_opt + np.log(n).mean())),
        d_opt=float(np.exp(log_tokens(n, d, x_opt))),
        loss_opt=float(loss_opt),
        akima=float(lowest),
        edge=bool(
            not x.min() < x_opt < x.max() or lowest in (n.min(), n.max())
        ),
    )


def log_tokens(n: np.ndarray, d: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Log tokens at centred log sizes x, along the budget's curve."""
    centred = np.log(n) - np.log(n).mean()
    return np.polyval(np.polyfit(centred, np.log(d), 2), x)


def basis_of(x: np.ndarray) -> np.ndarray:
    """Basis (..., 3) of parabolas: 1, x, x^2."""
    return np.stack([np.ones_like(x), x, x**2], -1)


def parabolas(
    x: np.ndarray, loss: np.ndarray, width: float | None = None
) -> np.ndarray:
    """Parabolas (b, 3) fitted by Huber's loss to losses (b, m) over x (m,).

    x are centred log sizes, losses of order one. From residuals of `width` on
    Huber's loss is linear; None: from the data.
    """
    basis = basis_of(x)
    # All sums of the normal equations by one product an iteration.
    products = (basis[:, :, None] * basis[:, None, :]).reshape(len(x), 9)
    shrunk = np.sqrt(1 - leverages(basis))
    weights = np.ones_like(loss)
    found = np.zeros((len(loss), 3))
    for _ in range(20):
        square = (weights @ products).reshape(-1, 3, 3)
        pull = (weights * loss) @ basis
        before, found = found, np.linalg.solve(square, pull[..., None])[..., 0]
        if len(x) <= 3 or np.abs(found - before).max() < 1e-9:
            break
        residuals = np.abs(loss - found @ basis.T)
        bend = (
            width
            or TUNING * 1.4826 * np.median(residuals / shrunk, -1)[:, None]
        )
        weights = np.minimum(1.0, bend / np.maximum(residuals, 1e-300))
        weights = np.maximum(weights, 1e-6)
    return found


def vertices(parabola: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Minima of parabolas (..., 3): x and value, NaN where there is none."""
    constant, slope, bend = np.moveaxis(parabola, -1, 0)
    bend = np.where(bend > 0, bend, np.nan)
    return -slope / (2 * bend), constant - slope * (slope / (4 * bend))


def akima_optima(n: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Minima of Akima interpolations of losses (b, m): sizes (b,).

    Runs of one size count by their mean.
    """
    from scipy.interpolate import Akima1DInterpolator

    sizes, place = np.unique(n, return_inverse=True)
    mean = np.zeros((len(sizes), len(n)))
    mean[place, np.arange(len(n))] = 1
    mean /= mean.sum(1, keepdims=True)
    curve = Akima1DInterpolator(np.log(sizes), (loss @ mean.T).T, axis=0)
    fine = np.linspace(np.log(sizes[0]), np.log(sizes[-1]), 301)
    lowest = np.argmin(curve(fine), axis=0)
    picked = np.exp(fine[lowest])
    picked = np.where(lowest == 0, sizes[0], picked)
    return np.where(lowest == len(fine) - 1, sizes[-1], picked)
