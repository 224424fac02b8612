"""Fixed times for a validation loss, and how often training draws theirs."""

from __future__ import annotations

import math

import numpy as np

from i2i_prior.diffusion.paths import Path


def stratified_times(count: int, path: Path) -> np.ndarray:
    """The middles of `count` equal strata of [0, 1], float64 (count,).

    On ddpm paths the nearest table entries, on flow held above t_min.
    """
    middles = (np.arange(count) + 0.5) / count
    if path.is_discrete:
        steps = path.num_timesteps
        return np.clip(np.round(middles * steps), 1, steps) / steps
    return np.clip(middles, path.t_min, path.t_max)


def stratum_shares(
    count: int, path: Path, distribution: str, mean: float, std: float
) -> np.ndarray:
    """How often `objectives.draw_times` falls into each of `count` equal
    strata of [0, 1]: float64 (count,), sums to 1. Arguments as there."""
    edges = np.linspace(0.0, 1.0, count + 1)
    if not path.is_discrete:
        edges = edges / (path.shift - (path.shift - 1.0) * edges)
    if distribution == "logit_normal":
        with np.errstate(divide="ignore"):
            normal = (np.log(edges) - np.log1p(-edges) - mean) / std
        edges = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in normal])
    return np.diff(edges)
