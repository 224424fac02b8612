"""Extrapolation of known distances at infinitely many samples."""

from __future__ import annotations

import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.evaluation.measures.extrapolate import (
    fd_infinity,
    fit_line,
    prefix_distances,
    prefix_sizes,
)
from i2i_prior.evaluation.measures.frechet import (
    Factor,
    frechet_distance,
    reference_factor,
)
from i2i_prior.evaluation.measures.intervals import student
from i2i_prior.evaluation.measures.statistics import FeatureStatistics

DIM = 8
SHIFT, SPREAD = 0.3, 1.2


@pytest.fixture(scope="module")
def reference() -> Factor:
    """Reference of mean 0 and covariance 1 exactly."""
    return reference_factor(
        FeatureStatistics.of_covariance(
            np.zeros(DIM), np.eye(DIM), count=100_000
        )
    )


def drawn(seed: int, count: int = 1000) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return SPREAD * draw.normal(size=(count, DIM)) + SHIFT


TRUE = DIM * (SHIFT**2 + (SPREAD - 1) ** 2)


def test_the_bias_goes_and_the_standard_error_holds(reference):
    points = [prefix_distances(reference, drawn(s), s) for s in range(150)]
    values, _, errors = np.array(
        [fit_line(*map(np.array, point)) for point in points]
    ).T
    plain = np.array([distances[-1] for _, distances in points])
    spread = values.std()
    noise = spread / np.sqrt(len(values))
    assert plain.mean() - TRUE > 3 * noise
    assert abs(values.mean() - TRUE) < 2 * noise
    assert 0.8 < np.mean(errors) / spread < 1.25
    counts = points[0][0]
    found = fd_infinity(reference, drawn(0))
    assert found.value == values[0]
    half = student(0.95, len(counts) - 2) * errors[0]
    assert found.high - found.value == pytest.approx(half, rel=1e-12)
    assert found.method == "line in 1 / n through 15 prefixes"


def test_the_points_are_distances_of_one_shuffled_order(reference):
    rows = drawn(0)
    counts, distances = prefix_distances(reference, rows, seed=5)
    order = np.random.default_rng(5).permutation(1000)
    assert counts == prefix_sizes(1000, DIM)
    for size, distance in zip(counts, distances, strict=True):
        prefix = FeatureStatistics(DIM)
        prefix.update(rows[order[:size]])
        expected = frechet_distance(reference, prefix)
        assert distance == pytest.approx(expected, rel=1e-12)
    other = fd_infinity(reference, rows, seed=6)
    assert other.value != fd_infinity(reference, rows, seed=5).value
    last = prefix_distances(reference, rows, seed=6)[1][-1]
    assert last == pytest.approx(distances[-1])


def test_each_feature_is_looked_at_once(reference, monkeypatch):
    seen, update = [], FeatureStatistics.update

    def counting(self, rows):
        seen.append(len(rows))
        update(self, rows)

    monkeypatch.setattr(FeatureStatistics, "update", counting)
    fd_infinity(reference, drawn(0))
    assert sum(seen[1:]) == 1000  # after the look at the first two


def test_a_straight_line_is_found_without_error():
    counts = np.array([50, 100, 300])
    value, slope, error = fit_line(counts, 2.0 + 7.0 / counts)
    assert (value, slope) == pytest.approx((2, 7), rel=1e-10)
    assert error == pytest.approx(0, abs=1e-10)


def test_weights_and_error_are_those_of_nested_means():
    """Checks lines plus averages of the first n of one row of noise."""
    draw = np.random.default_rng(0)
    counts = np.array([40, 100, 200, 400])
    sums = np.cumsum(draw.normal(size=(3000, 400)), axis=1)
    noise = sums[:, counts - 1] / counts
    fits = np.array([fit_line(counts, 3 + 5 / counts + e) for e in noise])
    assert fits[:, 0].mean() == pytest.approx(3, abs=3 * 0.06 / 50)
    ratio = np.sqrt((fits[:, 2] ** 2).mean()) / fits[:, 0].std()
    assert ratio == pytest.approx(1, abs=0.05)
    ordinary = [np.polyfit(1 / counts, e, 1)[1] for e in noise]
    assert fits[:, 0].std() < 0.95 * np.std(ordinary)


def test_sizes_that_are_chosen():
    sizes = prefix_sizes(50_000, 2048)
    assert (sizes[0], sizes[-1], len(sizes)) == (5000, 50_000, 15)
    assert prefix_sizes(3000, 2048)[0] == 2049


def test_refusals(reference):
    rows = drawn(0, 60)
    with pytest.raises(UserError, match="do not fit"):
        fd_infinity(reference, rows[:, 1:])
    few = r"of 8 numbers an image needs at least 11 images, .* are 10;"
    with pytest.raises(UserError, match=few):
        fd_infinity(reference, rows[:10])
    fd_infinity(reference, rows[:11])
