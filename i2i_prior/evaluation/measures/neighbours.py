"""Precision and recall of samples, density and coverage, by neighbours.

The manifold of a set is the union of balls about its members, their radii the
distance to the k-th nearest other member.

    precision  share of the samples within a ball of the reference
    recall     share of the reference within a ball of the samples
    density    balls of the reference around a sample, mean over k
    coverage   share of the reference's balls that hold a sample

Precision and recall after Kynkaanniemi et al. 2019, "Improved Precision and
Recall Metric for Assessing Generative Models"; density and coverage after
Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics for Generative
Models". They depend on both counts: only results of equal counts compare.

Here the reference always comes first. torch-fidelity's input 1 is the
generated set and its input 2 the reference (before 0.4.0 its names of the two
results were swapped); ADM's evaluator takes the reference first, 10,000 images
of it against 50,000 samples, and rounds distances to float16, which moves its
numbers by some 1e-3.
"""

from collections.abc import Callable

import numpy as np

from i2i_prior.evaluation.measures.distances import (
    feature_rows,
    squared_distances,
)


def precision_recall(
    reference: np.ndarray, generated: np.ndarray, k: int = 3
) -> dict[str, float]:
    """Precision and recall of features (n, d) and (m, d), closed balls (`<=`).

    k = 3, as in ADM's evaluator and in torch-fidelity. UserError for k or
    fewer images a side, other widths, NaN.
    """
    found = _compare(reference, generated, k, np.less_equal)
    return {name: found[name] for name in ("precision", "recall")}


def prdc(
    reference: np.ndarray, generated: np.ndarray, k: int = 5
) -> dict[str, float]:
    """Precision, recall, density and coverage, with open balls (`<`).

    As in the authors' package `prdc` and dgm-eval, where k is 5. All are at
    most 1 but the density, about 1 for sets of one distribution.
    """
    return _compare(reference, generated, k, np.less)


def _compare(
    reference: np.ndarray,
    generated: np.ndarray,
    k: int,
    within: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> dict[str, float]:
    reference, generated = feature_rows(reference, generated, at_least=k + 1)
    reference_radii = _radii(reference, k)
    generated_radii = _radii(generated, k)
    balls = np.zeros(len(generated), np.int64)
    recalled = np.zeros(len(reference), bool)
    covered = np.zeros(len(reference), bool)
    for rows, slab in squared_distances(reference, generated):
        inside = within(slab, reference_radii[rows, None])
        balls += inside.sum(axis=0)
        covered[rows] = inside.any(axis=1)
        recalled[rows] = within(slab, generated_radii).any(axis=1)
    return {
        "precision": float((balls > 0).mean()),
        "recall": float(recalled.mean()),
        "density": float(balls.mean() / k),
        "coverage": float(covered.mean()),
    }


def _radii(rows: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each row to its k-th nearest other one."""
    # each row is its own nearest, at distance 0
    return np.concatenate(
        [
            np.partition(slab, k, axis=1)[:, k]
            for _, slab in squared_distances(rows, rows)
        ]
    )
