"""Power laws over compute: y = a C^b of the optima, and L = E + a C^-b.

A pure power law of a diffusion loss is a local fit: a large part of the loss
is irreducible, and FID has a positive floor too. `OffsetLaw` has that part.
"""

import math
from dataclasses import dataclass

import numpy as np

from i2i_prior.scaling_laws.bootstrap import interval

EXPONENTS = np.geomspace(0.01, 2.0, 160)
LEAST = 4  # budgets: one more than there are parameters

Intervals = dict[str, list[float]]


@dataclass(frozen=True)
class PowerLaw:
    """y = coefficient x C^exponent."""

    coefficient: float
    exponent: float
    draws: np.ndarray  # (b, 2) of (log coefficient, exponent)

    def __call__(self, c: np.ndarray | float) -> np.ndarray:
        """y at budgets c."""
        return self.coefficient * np.asarray(c, float) ** self.exponent

    def drawn(self, c: float) -> np.ndarray:
        """(b,) y of the draws at one budget."""
        return np.exp(self.draws[:, 0] + self.draws[:, 1] * np.log(c))

    def intervals(self, freedom: int) -> Intervals:
        """95 % intervals by name, that of the coefficient by its logarithm."""
        estimate = np.array([math.log(self.coefficient), self.exponent])
        ends = interval(estimate, self.draws, freedom)
        coefficient = np.exp(np.clip(ends[:, 0], -700, 700))
        return {
            "coefficient": coefficient.tolist(),
            "exponent": ends[:, 1].tolist(),
        }


@dataclass(frozen=True)
class OffsetLaw:
    """loss = offset + coefficient x C^-exponent."""

    offset: float
    coefficient: float
    exponent: float
    draws: np.ndarray  # (b, 3) of (offset, log coefficient, exponent)

    def __call__(self, c: float) -> float:
        """The loss at a budget."""
        return self.offset + self.coefficient * c**-self.exponent

    def drawn(self, c: float) -> np.ndarray:
        """(b,) losses of the draws at one budget."""
        offset, log_coefficient, exponent = self.draws.T
        return offset + np.exp(log_coefficient - exponent * np.log(c))

    def intervals(self, freedom: int) -> Intervals:
        """95 % intervals of the offset, 0 or more, and of -exponent."""
        estimate = np.array([self.offset, self.exponent])
        ends = interval(estimate, self.draws[:, [0, 2]], freedom)
        return {
            "offset": np.maximum(ends[:, 0], 0.0).tolist(),
            "exponent": (-ends[::-1, 1]).tolist(),
        }


def fit_power_law(
    log_c: np.ndarray, estimate: np.ndarray, drawn: np.ndarray
) -> tuple[PowerLaw, float]:
    """Fits a line through log optima (k,), and through each draw (b, k).

    Optima are weighted by their precision. Where they scatter about the line
    more than their noise explains (chi squared, 1 %), draws are widened by
    the square root of chi squared a degree (Birge's ratio).

    Returns:
      the law, and the factor that its draws are widened by, 1 or more.
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


def fit_offset_law(
    c: np.ndarray, log_loss: np.ndarray, drawn: np.ndarray
) -> OffsetLaw | None:
    """Fits the law with an offset to lowest losses (k,) at budgets c (k,).

    Of the redrawn ones (b, k) a row with NaN is left out. Returns None for
    fewer than `LEAST` budgets, or where less than half of the rows are left.
    """
    whole = drawn[np.isfinite(drawn).all(1)]
    if len(c) < LEAST or len(whole) < len(drawn) / 2:
        return None
    losses = np.exp(np.concatenate([log_loss[None], whole]))
    found = _offset_lines(np.log(c), losses)
    offset, coefficient, exponent = found[0]
    return OffsetLaw(
        float(offset), float(np.exp(coefficient)), float(exponent), found[1:]
    )


def _offset_lines(log_c: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """(b, 3) for losses (b, k): the best line in C^-exponent over exponents."""
    centre = log_c.mean()
    best = np.full(len(loss), np.inf)
    found = np.zeros((len(loss), 3))
    for exponent in EXPONENTS:
        x = np.exp(-exponent * (log_c - centre))
        gap = x - x.mean()
        slope = np.maximum(loss @ gap / (gap @ gap), 1e-300)
        # The slope that goes with an offset of zero, where it would be less.
        through = loss @ x / (x @ x)
        offset = loss.mean(1) - slope * x.mean()
        slope = np.where(offset > 0, slope, through)
        offset = np.maximum(offset, 0.0)
        error = ((loss - offset[:, None] - slope[:, None] * x) ** 2).sum(1)
        log_slope = np.log(slope) + exponent * centre
        row = np.stack([offset, log_slope, np.full(len(loss), exponent)], -1)
        better = error < best
        best = np.where(better, error, best)
        found = np.where(better[:, None], row, found)
    return found
