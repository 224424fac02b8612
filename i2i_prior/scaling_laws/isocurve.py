"""One isoFLOP curve: a parabola in log N through losses, and its vertex.

A parabola is biased where the curve is not symmetric (arXiv 2603.22339), so
the minimum of an Akima interpolation is given with its vertex.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from i2i_prior.scaling_laws.bootstrap import leverages
from i2i_prior.scaling_laws.points import FLAT, Point, column, mean_flops

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
        *(mean_flops(group), n, d, loss, parabola),
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
