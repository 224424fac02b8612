"""Streamed statistics against numpy's two-pass ones."""

from __future__ import annotations

import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.evaluation.measures.statistics import (
    UNCOUNTED,
    FeatureStatistics,
)


def features(count: int = 200, dim: int = 7, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return draw.normal(size=(count, dim)) @ draw.normal(size=(dim, dim)) + 3


def streamed(rows: np.ndarray, sizes: list[int]) -> FeatureStatistics:
    statistics = FeatureStatistics(rows.shape[1])
    for batch in np.split(rows, np.cumsum(sizes)):
        statistics.update(batch)
    return statistics


@pytest.mark.parametrize(
    "sizes", [[], [1] * 199, [1, 150, 2, 40], [64, 64, 64], [0, 200]]
)
def test_any_batches_give_numpys_moments(sizes):
    rows = features()
    statistics = streamed(rows, sizes)
    assert statistics.count == 200
    np.testing.assert_allclose(statistics.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(
        statistics.cov, np.cov(rows, rowvar=False), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_merging_hosts_in_any_order(order):
    rows = features()
    shards = [streamed(s, [3]) for s in np.split(rows, [1, 90])]
    total = FeatureStatistics(7)
    for index in order:
        total.merge(shards[index])
    assert total.count == 200
    np.testing.assert_allclose(total.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(
        total.cov, np.cov(rows, rowvar=False), rtol=1e-12, atol=1e-12
    )


def test_large_mean_keeps_its_digits():
    """Raw float64 sums lose all but three digits of this variance."""
    rows = features(400, 3) + 1e6
    statistics = streamed(rows, [100, 100, 100])
    np.testing.assert_allclose(
        statistics.cov, np.cov(rows, rowvar=False), rtol=1e-9
    )
    naive = (rows.T @ rows - 400 * np.outer(rows.mean(0), rows.mean(0))) / 399
    assert abs(naive / np.cov(rows, rowvar=False) - 1).max() > 1e-6


def test_float32_batches_are_summed_in_float64():
    rows = features().astype(np.float32)
    expected = np.cov(rows.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(
        streamed(rows, [1, 9]).cov, expected, rtol=1e-12, atol=1e-12
    )


def test_one_feature_has_no_variance():
    statistics = streamed(features(1), [])
    assert statistics.count == 1
    assert (statistics.cov == 0).all()


def test_nothing_seen():
    with pytest.raises(UserError, match="no feature"):
        _ = FeatureStatistics(3).mean
    with pytest.raises(UserError, match="no feature"):
        _ = FeatureStatistics(3).cov


def test_results_are_copies():
    statistics = streamed(features(), [])
    statistics.mean[:] = 0
    statistics.cov[:] = 0
    assert statistics.mean.any()
    assert statistics.cov.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite_is_refused_and_leaves_no_trace(bad):
    statistics = streamed(features(), [])
    before = statistics.mean
    with pytest.raises(UserError, match="NaN"):
        statistics.update(np.array([[1.0] * 6 + [bad]]))
    assert statistics.count == 200
    np.testing.assert_array_equal(statistics.mean, before)


@pytest.mark.parametrize("shape", [(4, 6), (7,), (2, 7, 1)])
def test_wrong_width(shape):
    with pytest.raises(UserError, match="do not fit"):
        FeatureStatistics(7).update(np.zeros(shape))


def test_statistics_made_of_moments():
    rows = features()
    centred = rows - rows.mean(0)
    made = FeatureStatistics.of(200, rows.mean(0), centred.T @ centred, "x")
    np.testing.assert_allclose(made.cov, np.cov(rows, rowvar=False))
    np.testing.assert_allclose(made.moment, centred.T @ centred)
    assert (made.count, made.features) == (200, "x")
    made.update(rows[:1])
    assert made.count == 201
    with pytest.raises(UserError, match="NaN or infinity"):
        FeatureStatistics.of(2, np.zeros(2), np.full((2, 2), np.nan))


def test_statistics_of_an_unknown_count_keep_their_digits():
    cov = np.cov(features(), rowvar=False)
    made = FeatureStatistics.of_covariance(np.ones(7), cov)
    assert made.count == UNCOUNTED
    assert np.array_equal(made.cov, cov)
    assert FeatureStatistics.of_covariance(np.ones(7), cov, 9).count == 9
