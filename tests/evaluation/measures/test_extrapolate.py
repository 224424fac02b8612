"""Extrapolation of known distances at infinitely many samples."""

from __future__ import annotations

import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.evaluation.measures.extrapolate import (
    fd_infinity,
    fit_line,
    prefix_sizes,
)
from i2i_prior.evaluation.measures.frechet import (
    frechet_distance,
    reference_factor,
)
from i2i_prior.evaluation.measures.statistics import FeatureStatistics

DIM = 8
SHIFT, SPREAD = 0.3, 1.2
SIZES = [100, 200, 400, 600, 800, 1000]


@pytest.fixture(scope="module")
def reference() -> FeatureStatistics:
    """Reference of mean 0 and covariance 1 exactly."""
    return FeatureStatistics.of_covariance(
        np.zeros(DIM), np.eye(DIM), count=100_000
    )


def drawn(seed: int, count: int = 1000) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return SPREAD * draw.normal(size=(count, DIM)) + SHIFT


TRUE = DIM * (SHIFT**2 + (SPREAD - 1) ** 2)


def test_the_bias_goes_and_the_standard_error_holds(reference):
    factor = reference_factor(reference)
    found = [
        fd_infinity(factor, drawn(seed), SIZES, seed) for seed in range(150)
    ]
    values = np.array([result["value"] for result in found])
    plain = np.array([result["distances"][-1] for result in found])
    spread = values.std()
    noise = spread / np.sqrt(len(values))
    assert plain.mean() - TRUE > 3 * noise
    assert abs(values.mean() - TRUE) < 2 * noise
    errors = [result["standard_error"] for result in found]
    assert 0.8 < np.mean(errors) / spread < 1.25


def test_the_points_are_distances_of_one_shuffled_order(reference):
    rows = drawn(0)
    found = fd_infinity(reference, rows, [100, 1000, 400], seed=5)
    order = np.random.default_rng(5).permutation(1000)
    assert found["sizes"] == [100, 400, 1000]
    for size, distance in zip(found["sizes"], found["distances"], strict=True):
        prefix = FeatureStatistics(DIM)
        prefix.update(rows[order[:size]])
        expected = frechet_distance(reference, prefix)
        assert distance == pytest.approx(expected, rel=1e-12)
    again = fd_infinity(reference_factor(reference), rows, [100, 400, 1000], 5)
    assert again == found
    other = fd_infinity(reference, rows, [100, 400, 1000], seed=6)
    assert other["value"] != found["value"]
    assert other["distances"][-1] == pytest.approx(found["distances"][-1])


def test_each_feature_is_looked_at_once(reference, monkeypatch):
    seen, update = [], FeatureStatistics.update

    def counting(self, rows):
        seen.append(len(rows))
        update(self, rows)

    monkeypatch.setattr(FeatureStatistics, "update", counting)
    fd_infinity(reference, drawn(0), SIZES)
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
    with pytest.raises(UserError, match="at least 3 different sizes"):
        fd_infinity(reference, rows, [20, 20, 60])
    for sizes in ([8, 30, 60], [20, 30, 61]):
        with pytest.raises(UserError, match="do not fit 60 features"):
            fd_infinity(reference, rows, sizes)
    with pytest.raises(UserError, match="do not fit"):
        fd_infinity(reference, rows[:, 1:], [20, 30, 60])
    few = r"of 8 numbers an image needs at least 11 images, .* are 10;"
    with pytest.raises(UserError, match=few):
        fd_infinity(reference, rows[:10])
    fd_infinity(reference, rows[:11])
