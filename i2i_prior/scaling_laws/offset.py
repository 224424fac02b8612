"""loss = offset + coefficient x C^-exponent along the optima.

A pure power law of a diffusion loss is a local fit: a large part of the loss
cannot be learnt, and FID's floor is not 0 either. This form has that part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from i2i_prior.scaling_laws.isoflop import IsoFlop

EXPONENTS = np.geomspace(0.01, 2.0, 160)
LEAST = 4  # budgets: one more than there are parameters


@dataclass(frozen=True)
class OffsetLaw:
    """loss = offset + coefficient x C^-exponent; draws (b, 3) of
    (offset, log coefficient, exponent)."""

    offset: float
    coefficient: float
    exponent: float
    draws: np.ndarray

    def __call__(self, c: float) -> float:
        """The loss at a budget."""
        return self.offset + self.coefficient * c**-self.exponent

    def drawn(self, c: float) -> np.ndarray:
        """(b,) losses of the draws at one budget."""
        offset, log_coefficient, exponent = self.draws.T
        return offset + np.exp(log_coefficient - exponent * np.log(c))


def of_optima(optima: IsoFlop) -> OffsetLaw | None:
    """The law of an isoFLOP fit."""
    return fit(
        np.array([curve.c for curve in optima.curves]),
        np.log([curve.loss_opt for curve in optima.curves]),
        optima.loss_drawn,
    )


def fit(
    c: np.ndarray, log_loss: np.ndarray, drawn: np.ndarray
) -> OffsetLaw | None:
    """The law of optima at budgets c (k,); None where fewer than `LEAST`
    budgets, or draws with an optimum in all of them, are too few.

    Args:
      c: budgets.
      log_loss: (k,) of their lowest losses.
      drawn: (b, k) redrawn; a row with NaN is left out.
    """
    if len(c) < LEAST:
        return None
    whole = drawn[np.isfinite(drawn).all(1)]
    if len(whole) < len(drawn) / 2:  # most draws have no optimum somewhere
        return None
    everything = np.exp(np.concatenate([log_loss[None], whole]))
    found = _solve(np.log(c), everything)
    offset, coefficient, exponent = found[0]
    return OffsetLaw(
        float(offset), float(np.exp(coefficient)), float(exponent), found[1:]
    )


def _solve(log_c: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """(b, 3) for losses (b, k): a line in C^-exponent for each exponent."""
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
        better = error < best
        best = np.where(better, error, best)
        row = np.stack(
            [
                offset,
                np.log(slope) + exponent * centre,
                np.full(len(loss), exponent),
            ],
            -1,
        )
        found = np.where(better[:, None], row, found)
    return found
