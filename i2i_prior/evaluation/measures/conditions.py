"""Samples against the conditions that they were drawn for.

**Fidelity**, by an embedding of both. Of N conditions with K samples each,
embeddings c_i and s_ik of length 1:

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
with N. The intervals leave out blocks of conditions (`intervals`): they cover
another draw of conditions, given the ones of the group.

**Retrieval** of the conditions by their samples, by features in standardised
units: every number is divided by its standard deviation over the conditions
(constant numbers are left out), and the parts of the features (thumbnail and
orientation histograms, say) are scaled to weigh the same whatever their size.
The distance is the Euclidean one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.colour_texture import FEATURES
from i2i_prior.evaluation.measures.distances import squared_distances
from i2i_prior.evaluation.measures.intervals import Interval, jackknife

GROUP = 64
_BLOCKS = 20
_FEWEST = 10  # conditions for an interval

# uint8 (N, H, W, 3) -> (N, d), see `load_features`
FeatureFunction = Callable[[np.ndarray], np.ndarray]


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
        means: dict[str, tuple] = {
            name: (np.mean, getattr(self, name))
            for name in ("cosine", "unrelated", "top1")
        }
        if np.isfinite(self.within).all():
            means["diversity"] = _ratio, self.within, self.between
        few = len(self.cosine) < _FEWEST
        return {
            f"{prefix}_{name}": float(mean(*columns))
            if few
            else row_interval(mean, *columns)
            for name, (mean, *columns) in means.items()
        }


def concatenate(parts: Sequence[Fidelity]) -> Fidelity:
    """Joins the results of several groups, in their order."""
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return Fidelity(*map(np.concatenate, columns))


def condition_fidelity(conditions: np.ndarray, samples: np.ndarray) -> Fidelity:
    """Compares embeddings of one group, (n, d) and samples' (n, K, d).

    UserError for one condition, or an embedding that is 0 or not finite.
    """
    if len(conditions) < 2:
        raise UserError(
            "condition fidelity needs at least 2 conditions to tell apart; "
            "draw for more."
        )
    known, drawn = _unit(conditions), _unit(samples)
    count, each = drawn.shape[:2]
    cosines = np.einsum("ikd,jd->ikj", drawn, known)
    own = cosines[np.arange(count), :, np.arange(count)]  # (n, K)
    top1 = _share(1, *_places(-cosines, -own, slack=1e-12)).mean(-1)
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


def row_interval(
    statistic: Callable[..., float], *columns: np.ndarray, blocks: int = _BLOCKS
) -> Interval:
    """Statistic of rows with its 95 % interval, by deleting blocks.

    Over 1000 draws of 200 normal numbers their mean lay in it 95 times of 100.

    The rows of the columns (N,), N >= 2, are independent of each other; row i
    belongs to block i modulo their number.
    """
    blocks = min(blocks, len(columns[0]))
    block_of = np.arange(len(columns[0])) % blocks
    without = [
        statistic(*(column[block_of != block] for column in columns))
        for block in range(blocks)
    ]
    return jackknife(
        float(statistic(*columns)),
        np.array(without),
        "delete-block jackknife over conditions",
    )


def condition_match(
    conditions: np.ndarray,
    samples: np.ndarray,
    features: FeatureFunction = FEATURES["thumbnails"],
) -> dict[str, float]:
    """Ranks the own condition of each sample among all N.

    Conditions are uint8 (N, H, W, 3), samples uint8 (N, K, H', W', 3).

    Returns:
      top1, top5: share of samples whose condition is the nearest, or among
        the nearest five; a tie of t conditions counts as 1/t each.
      chance: top1 of a sample that ignores its condition, 1 / N.
      mean_rank: mean rank of the right condition, 1 best, (N + 1) / 2 at
        chance.
    """
    count = len(conditions)
    if count < 2 or len(samples) != count:
        raise UserError(
            f"matching needs at least 2 conditions and as many generated "
            f"images: there are {count} and {len(samples)}."
        )
    drawn = features(samples.reshape(-1, *samples.shape[2:]))
    known = features(conditions)
    standardise = _standardiser(known, features)
    slabs = squared_distances(standardise(drawn), standardise(known))
    distances = np.concatenate([slab for _, slab in slabs])
    right = np.repeat(np.arange(count), samples.shape[1])
    own = distances[np.arange(len(right)), right]
    nearer, ties = _places(distances, own, slack=1e-9 * (1.0 + own[:, None]))
    return {
        "top1": float(_share(1, nearer, ties).mean()),
        "top5": float(_share(5, nearer, ties).mean()),
        "chance": 1.0 / count,
        "mean_rank": float((nearer + (ties + 1) / 2).mean()),
    }


def _places(
    distances: np.ndarray, own: np.ndarray, slack: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of conditions nearer than the own one, and as near as it.

    Of distances (..., N) to all, and (...) to the own one. With a slack, since
    the same two vectors compared twice may differ in the last digits.
    """
    own = own[..., None]
    nearer = (distances < own - slack).sum(-1)
    return nearer, (distances <= own + slack).sum(-1) - nearer


def _share(k: int, nearer: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Share of orders of the ties in which the own one is among the first k."""
    return np.clip((k - nearer) / ties, 0.0, 1.0)


def _standardiser(
    reference: np.ndarray, features: FeatureFunction
) -> FeatureFunction:
    """Function (n, d) -> (n, d) float64, centred on `reference` (m, d).

    The parts of the features, see `colour_texture.Features`, have weight 1.
    """
    reference = np.asarray(reference, np.float64)
    mean, spread = reference.mean(axis=0), reference.std(axis=0)
    varies = spread > 1e-6 * (1.0 + np.abs(mean))
    scale = np.where(varies, 1.0 / np.where(varies, spread, 1.0), 0.0)
    start = 0
    for size in getattr(features, "parts", ()) or (reference.shape[1],):
        block = slice(start, start + size)
        scale[block] /= np.sqrt(max(varies[block].sum(), 1))
        start += size
    return lambda rows: (np.asarray(rows, np.float64) - mean) * scale


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
