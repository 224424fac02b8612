"""Intervals cover as often as they say; jackknife by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i_prior.errors import UserError
from i2i_prior.evaluation.measures.frechet import distance_to, reference_factor
from i2i_prior.evaluation.measures.intervals import (
    Interval,
    block_interval,
    leave_one_out,
    student,
)
from i2i_prior.evaluation.measures.statistics import FeatureStatistics

DIM, COUNT, BLOCKS = 8, 400, 10


def of(rows: np.ndarray) -> FeatureStatistics:
    statistics = FeatureStatistics(rows.shape[1])
    statistics.update(rows)
    return statistics


def split(rows: np.ndarray, blocks: int) -> list[FeatureStatistics]:
    """Statistics of rows 0, K, 2K, ...; 1, K + 1, ...; and so on."""
    return [of(rows[block::blocks]) for block in range(blocks)]


@pytest.fixture(scope="module")
def factor():
    return reference_factor(
        FeatureStatistics.of_covariance(np.zeros(DIM), np.eye(DIM), 100_000)
    )


def drawer(shift: float, spread: float):
    draw = np.random.default_rng(0)
    return lambda n: spread * draw.normal(size=(n, DIM)) + shift


@pytest.mark.parametrize(
    ("shift", "spread", "share"),
    [(0.3, 1.2, (0.88, 0.98)), (0.0, 1.0, (0.95, 1.0))],
)
def test_coverage(factor, shift, spread, share):
    """Checks coverage of the mean distance of 400 samples, 150 trials."""
    draw = drawer(shift, spread)
    true = np.mean([distance_to(factor, of(draw(COUNT))) for _ in range(600)])
    covered = 0
    for _ in range(150):
        found = block_interval(factor, split(draw(COUNT), BLOCKS))
        covered += found.low <= true <= found.high
    # the standard error of 0.95 is 0.018
    assert share[0] <= covered / 150 <= share[1]


def test_the_jackknife_by_hand(factor):
    rows = drawer(0.3, 1.2)(57)  # blocks of 14 and 15
    found = block_interval(factor, split(rows, 4))
    numbers = np.arange(57) % 4
    without = np.array(
        [distance_to(factor, of(rows[numbers != k])) for k in range(4)]
    )
    variance = 3 / 4 * ((without - without.mean()) ** 2).sum()
    assert found.value == pytest.approx(distance_to(factor, of(rows)))
    half = 3.182446 * np.sqrt(variance)  # t of 3 degrees, 95 %
    assert found.high - found.value == pytest.approx(half, rel=1e-6)
    assert found.value - found.low == pytest.approx(half, rel=1e-6)
    assert found.method == "delete-block jackknife, 4 blocks"


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 6), min_size=2, max_size=9), st.integers(0, 99))
def test_leaving_out_is_merging_the_others(counts, seed):
    """For blocks of any sizes; and the blocks stay as they are."""
    draw = np.random.default_rng(seed)
    rows = [draw.normal(size=(n, 3)) + 1e3 for n in counts]
    parts = [of(block) for block in rows]
    left = list(leave_one_out(parts))
    assert len(left) == len(parts)
    for index, found in enumerate(left):
        others = np.concatenate(rows[:index] + rows[index + 1 :])
        assert found.count == len(others)
        if len(others):
            np.testing.assert_allclose(found.mean, others.mean(0), rtol=1e-13)
        if len(others) > 1:
            cov = np.cov(others, rowvar=False)
            np.testing.assert_allclose(found.cov, cov, atol=1e-10)
    assert [part.count for part in parts] == counts


@pytest.mark.parametrize(
    ("level", "freedom", "quantile"),
    [
        (0.5, 1, 1.0),
        (0.95, 1, 12.7062047),
        (0.95, 9, 2.2621572),
        (0.99, 2, 9.9248432),
        (0.95, 10_000, 1.9602012),
    ],
)
def test_students_t(level, freedom, quantile):
    assert student(level, freedom) == pytest.approx(quantile, rel=1e-6)


@pytest.mark.parametrize(
    ("value", "half", "text"),
    [
        (12.3449, 0.2099, "12.34 +- 0.21 (95 %)"),
        (3.0, 0.00123, "3.0000 +- 0.0012 (95 %)"),
        (812.3, 45.6, "812 +- 46 (95 %)"),
        (2.0, 0.0, "2.00 +- 0.00 (95 %)"),
    ],
)
def test_as_text(value, half, text):
    assert str(Interval(value, value - half, value + half, 0.95, "")) == text


def test_refusals(factor):
    rows = drawer(0, 1)(40)
    with pytest.raises(UserError, match="at least 2 images"):
        block_interval(factor, split(rows[:12], 10))
    with pytest.raises(UserError, match="dimension 8 and 7"):
        block_interval(factor, [of(rows[::2, 1:]), of(rows[1::2, 1:])])


def exact(x: np.ndarray, y: np.ndarray) -> float:
    """Distance by the singular values of the centred rows' product."""
    a, b = ((r - r.mean(0)) / np.sqrt(len(r) - 1) for r in (x, y))
    roots = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    gap = ((x.mean(0) - y.mean(0)) ** 2).sum()
    return float(gap + (a**2).sum() + (b**2).sum() - 2 * roots)


@pytest.mark.filterwarnings("ignore:.*has rank at most:UserWarning")
@pytest.mark.parametrize("others", [12, 40, 300])
@pytest.mark.parametrize("count", [8, 20, 62])
@pytest.mark.parametrize("spread", [1.0, 10.0 ** np.linspace(0, -5, 64)])
def test_few_samples_have_exact_intervals(others, count, spread):
    """However few there are on either side, and also of fewer than d / 2."""
    draw = np.random.default_rng(count)
    x = (draw.normal(size=(others, 64)) + 0.3) * spread
    y = draw.normal(size=(count, 64)) * 1.2 * spread
    numbers = np.arange(count) % 4
    without = np.array([exact(x, y[numbers != k]) for k in range(4)])
    half = student(0.95, 3) * np.sqrt(3 * without.var())
    found = block_interval(reference_factor(of(x)), split(y, 4))
    assert found.value == pytest.approx(exact(x, y), rel=1e-9)
    assert found.high - found.value == pytest.approx(half, rel=1e-7)


def test_few_samples_are_warned_about(factor):
    with pytest.warns(UserWarning, match="6 images .* rank at most 5 of 8"):
        block_interval(factor, split(drawer(0, 1)(6), 3))


@pytest.mark.filterwarnings("ignore:.*has rank at most:UserWarning")
def test_samples_that_are_all_one():
    """No spread on either side leaves the squared distance of the means."""
    rows = np.ones((20, 64))
    found = block_interval(reference_factor(of(rows)), split(3 * rows, 10))
    ends = found.value, found.low, found.high
    assert ends == pytest.approx((256, 256, 256), rel=1e-14)
