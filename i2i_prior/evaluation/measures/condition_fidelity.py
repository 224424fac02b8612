"""Fidelity of samples to their conditions, by an embedding of both.

Of N conditions with K samples each, embeddings c_i and s_ik of length 1:

    cosine     mean of c_i . s_ik, 1 for equal embeddings
    unrelated  mean of c_j . s_ik over the other conditions j: the `cosine` of
               a model that ignores its condition
    top1       share of samples whose nearest condition is their own; a tie
               of t conditions counts as 1 / t
    diversity  mean 1 - s_ik . s_il over pairs of one condition, divided by
               that over pairs of two: 0 for one image a condition, about 1
               for samples that ignore it; needs K >= 2

Conditions are compared within groups of GROUP in their order, so that top1
has the same chance level (1 / GROUP) for every N and memory does not grow
with N.

The intervals are those of the delete-block jackknife over conditions (Efron
and Stein, "The jackknife estimate of variance", 1981, with blocks for single
observations): B blocks of conditions are left out in turn, and the variance is
(B - 1) / B times the sum of squared deviations of the results from their
mean. They cover another draw of conditions, given the ones of the group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.evaluation.measures.intervals import Interval, student

GROUP = 64
_BLOCKS = 20
_LEVEL = 0.95
_FEWEST = 10  # conditions for an interval


@dataclass(frozen=True)
class Fidelity:
    """Measures of each of N conditions, float64 (N,).

    `within` and `between` are the two means of `diversity`; `within` is NaN
    for one sample a condition.
    """

    cosine: np.ndarray
    unrelated: np.ndarray
    top1: np.ndarray
    within: np.ndarray
    between: np.ndarray

    def summary(self, prefix: str = "fidelity") -> dict[str, Interval | float]:
        """Means PREFIX_cosine, _unrelated, _top1 and, for K >= 2, _diversity.

        With intervals at 95 %, but for fewer than 10 conditions.
        """
        found = {
            name: jackknife(np.mean, getattr(self, name))
            for name in ("cosine", "unrelated", "top1")
        }
        if np.isfinite(self.within).all():
            found["diversity"] = jackknife(_ratio, self.within, self.between)
        few = len(self.cosine) < _FEWEST
        return {
            f"{prefix}_{name}": interval.value if few else interval
            for name, interval in found.items()
        }


def concatenate(parts: Sequence[Fidelity]) -> Fidelity:
    """Joins the results of several groups, in their order."""
    return Fidelity(
        *(
            np.concatenate([getattr(part, column.name) for part in parts])
            for column in fields(Fidelity)
        )
    )


def condition_fidelity(conditions: np.ndarray, samples: np.ndarray) -> Fidelity:
    """Compares embeddings of one group.

    Args:
      conditions: (n, d), of any length but 0.
      samples: (n, K, d), of the images drawn for each; likewise.

    Raises:
      UserError: where the shapes do not fit, a value is not finite or an
        embedding is 0.
    """
    if samples.ndim != 3 or conditions.shape != samples[:, 0].shape:
        raise UserError(
            "condition fidelity needs embeddings (n, d) of conditions and "
            f"(n, K, d) of their samples, not {conditions.shape} and "
            f"{samples.shape}."
        )
    if len(conditions) < 2:
        raise UserError(
            "condition fidelity needs at least 2 conditions to tell apart; "
            "draw for more."
        )
    known, drawn = _unit(conditions), _unit(samples)
    count, each = drawn.shape[:2]
    cosines = np.einsum("ikd,jd->ikj", drawn, known)
    own = cosines[np.arange(count), :, np.arange(count)]  # (n, K)
    # the same two vectors multiplied twice may differ in the last digits
    slack = 1e-12
    nearer = (cosines > own[..., None] + slack).sum(-1)
    ties = (cosines >= own[..., None] - slack).sum(-1) - nearer
    top1 = np.where(nearer == 0, 1 / ties, 0.0).mean(-1)
    sums = drawn.sum(1)
    # Sums over pairs without the pairs: |sum s|^2 = sum over all k, l.
    pairs = each * (each - 1)
    inner = (sums**2).sum(-1) - (drawn**2).sum((-1, -2))
    within = 1 - inner / pairs if pairs else np.full(count, np.nan)
    others = count - 1
    unrelated = (cosines.mean(1).sum(-1) - own.mean(-1)) / others
    outer = sums @ sums.T
    outer = outer.sum(-1) - np.diagonal(outer)
    between = 1 - outer / (others * each**2)
    return Fidelity(own.mean(-1), unrelated, top1, within, between)


def jackknife(
    statistic: Callable[..., float], *columns: np.ndarray, blocks: int = _BLOCKS
) -> Interval:
    """Statistic of rows with its 95 % interval, by deleting blocks.

    The interval is value +- t s, t of Student's distribution with B - 1
    degrees of freedom and s the jackknife's standard error. Over 1000 draws
    of 200 normal numbers their mean lay in it 95 times of 100.

    Args:
      statistic: of columns of any length.
      columns: (N,) each, their rows independent of each other.
      blocks: at most; row i belongs to block i modulo B.

    Returns:
      the interval; its ends are NaN for fewer than two rows.
    """
    rows = np.arange(len(columns[0]))
    blocks = min(blocks, len(rows))
    value, half = float(statistic(*columns)), math.nan
    if blocks >= 2:
        without = np.array(
            [
                statistic(*(c[rows % blocks != block] for c in columns))
                for block in range(blocks)
            ]
        )
        spread = ((without - without.mean()) ** 2).sum()
        error = math.sqrt((blocks - 1) / blocks * spread)
        half = student(_LEVEL, blocks - 1) * error
    method = "delete-block jackknife over conditions"
    return Interval(value, value - half, value + half, _LEVEL, method)


def _ratio(within: np.ndarray, between: np.ndarray) -> float:
    """Ratio of the means; 0 where nothing differs at all."""
    return float(within.mean() / between.mean()) if between.mean() else 0.0


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors scaled to length 1, float64."""
    vectors = np.asarray(vectors, np.float64)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise UserError(
            "an embedding is 0 or not finite; look at the images and at the "
            "encoder that embedded them."
        )
    return vectors / lengths
