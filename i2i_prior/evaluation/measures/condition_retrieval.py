"""Retrieval of conditions by their samples, and diversity of the samples.

Both measures compare features in standardised units: every number is divided
by its standard deviation over the reference images (constant numbers are left
out), and the parts of the features (thumbnail and orientation histograms,
say) are scaled to weigh the same whatever their size. The distance is the
Euclidean one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.colour_texture import FEATURES

FeatureFunction = Callable[[np.ndarray], np.ndarray]


def condition_match(
    condition_images: np.ndarray,
    generated: np.ndarray,
    features: FeatureFunction = FEATURES["thumbnails"],
) -> dict[str, float]:
    """Ranks the own condition of each generated image among all N.

    Args:
        condition_images: uint8 (N, H, W, 3).
        generated: uint8 (N, H', W', 3), or (N, K, H', W', 3) for K images a
            condition; row i was generated from condition i.
        features: uint8 (N, H, W, 3) -> (N, d), see `load_features`.

    Returns:
        top1, top5: share of images whose condition is the nearest, or among
            the nearest five; a tie of t conditions counts as 1/t each.
        chance: top1 of an image that ignores its condition, 1 / N.
        mean_rank: mean rank of the right condition, 1 best, (N + 1) / 2 at
            chance.
    """
    count = len(condition_images)
    if count < 2 or len(generated) != count:
        raise UserError(
            f"matching needs at least 2 conditions and as many generated "
            f"images: there are {count} and {len(generated)}."
        )
    per_condition = generated.shape[1] if generated.ndim == 5 else 1
    drawn = features(generated.reshape(-1, *generated.shape[-3:]))
    known = features(condition_images)
    standardise = _standardiser(known, features)
    distances = _squared_distances(standardise(drawn), standardise(known))
    right = np.repeat(np.arange(count), per_condition)
    to_right = distances[np.arange(len(right)), right][:, None]
    # the same two images measured twice may differ in the last digits
    slack = 1e-9 * (1.0 + to_right)
    nearer = (distances < to_right - slack).sum(axis=1)
    ties = (distances <= to_right + slack).sum(axis=1) - nearer

    def top(k: int) -> float:
        return float(np.clip((k - nearer) / ties, 0.0, 1.0).mean())

    return {
        "top1": top(1),
        "top5": top(5),
        "chance": 1.0 / count,
        "mean_rank": float((nearer + (ties + 1) / 2).mean()),
    }


def intra_diversity(
    images: np.ndarray,
    features: FeatureFunction = FEATURES["thumbnails"],
) -> float:
    """Mean distance within a condition over that between conditions.

    Args:
        images: uint8 (N, K, H, W, 3), N >= 2 conditions, K >= 2 samples.
        features: as for `condition_match`.

    Returns:
        0 for K equal images a condition, or images that are all equal; about
        1 for images that ignore their condition.
    """
    if images.ndim != 5 or images.shape[0] < 2 or images.shape[1] < 2:
        raise UserError(
            "diversity needs at least 2 images of at least 2 conditions, an "
            f"array (N, K, H, W, 3), not {images.shape}."
        )
    count, per_condition = images.shape[:2]
    found = features(images.reshape(-1, *images.shape[2:]))
    standard = _standardiser(found, features)(found)
    distances = np.sqrt(_squared_distances(standard, standard))
    condition = np.repeat(np.arange(count), per_condition)
    same = condition[:, None] == condition
    others = ~np.eye(len(condition), dtype=bool)
    between = distances[~same].mean()
    if between == 0.0:
        return 0.0
    return float(distances[same & others].mean() / between)


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


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances (n, m) of rows (n, d) and (m, d), never negative."""
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2.0 * a @ b.T
    return np.clip(squares, 0.0, None)
