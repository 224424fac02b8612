"""The Frechet distance against closed forms and scipy's matrix root."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.evaluation.frechet import frechet_distance, trace_of_root
from i2i_prior.evaluation.statistics import FeatureStatistics


def of(rows: np.ndarray, name: str = "") -> FeatureStatistics:
    statistics = FeatureStatistics(rows.shape[1], name)
    statistics.update(rows)
    return statistics


def gaussian(count: int, dim: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    mixing = draw.normal(size=(dim, dim)) / np.sqrt(dim)
    return draw.normal(size=(count, dim)) @ mixing + draw.normal(size=dim)


def with_moments(mean: np.ndarray, cov: np.ndarray) -> FeatureStatistics:
    """Statistics that have exactly these moments: whitened, then coloured."""
    dim = len(mean)
    rows = np.random.default_rng(3).normal(size=(4 * dim, dim))
    rows -= rows.mean(0)
    white = rows @ np.linalg.inv(np.linalg.cholesky(np.cov(rows.T))).T
    return of(white @ np.linalg.cholesky(cov).T + mean)


def test_diagonal_gaussians_have_a_closed_form():
    """|m1 - m2|^2 + sum (s1 - s2)^2 for diagonal covariances."""
    mean_a, mean_b = np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.0, -1.0])
    std_a, std_b = np.array([1.0, 2.0, 0.5]), np.array([3.0, 2.0, 0.1])
    expected = ((mean_a - mean_b) ** 2).sum() + ((std_a - std_b) ** 2).sum()
    found = frechet_distance(
        with_moments(mean_a, np.diag(std_a**2)),
        with_moments(mean_b, np.diag(std_b**2)),
    )
    assert found == pytest.approx(expected, rel=1e-12)


def test_commuting_gaussians_have_a_closed_form():
    """The same in a common rotated basis."""
    basis, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(6, 6)))
    std_a, std_b = np.linspace(0.5, 3, 6), np.linspace(2, 0.1, 6)
    a = with_moments(np.zeros(6), basis * std_a**2 @ basis.T)
    b = with_moments(np.ones(6), basis * std_b**2 @ basis.T)
    expected = 6 + ((std_a - std_b) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-11)


def test_agrees_with_scipys_matrix_root():
    linalg = pytest.importorskip("scipy.linalg")
    a, b = of(gaussian(300, 24, 0)), of(gaussian(200, 24, 1))
    root = linalg.sqrtm(a.cov @ b.cov)
    expected = (
        ((a.mean - b.mean) ** 2).sum()
        + np.trace(a.cov + b.cov)
        - 2 * np.trace(root).real
    )
    found = frechet_distance(a, b)
    assert found == pytest.approx(expected, rel=1e-10)
    assert found > 1


def test_symmetric_and_zero_for_equal_sets():
    a, b = of(gaussian(100, 10, 0)), of(gaussian(100, 10, 1))
    forth, back = frechet_distance(a, b), frechet_distance(b, a)
    assert forth == pytest.approx(back, rel=1e-11)
    assert 0 <= frechet_distance(a, a) < 1e-10


def test_shift_is_its_squared_length():
    rows = gaussian(100, 5, 2)
    shifted = of(rows + np.array([3.0, 4.0, 0, 0, 0]))
    assert frechet_distance(of(rows), shifted) == pytest.approx(25, rel=1e-10)


def test_rank_deficient_sets_are_warned_about_and_right():
    """With orthogonal supports the root vanishes: FD = |d|^2 + Tr + Tr."""
    left, right = np.zeros((5, 8)), np.zeros((5, 8))
    draw = np.random.default_rng(0)
    left[:, :3], right[:, 3:] = (
        draw.normal(size=(5, 3)),
        draw.normal(size=(5, 5)),
    )
    a, b = of(left), of(right)
    with pytest.warns(UserWarning, match="rank at most 4 of 8"):
        found = frechet_distance(a, b)
    expected = ((a.mean - b.mean) ** 2).sum() + np.trace(a.cov + b.cov)
    assert found == pytest.approx(expected, abs=1e-6)


def test_enough_images_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_distance(of(gaussian(9, 8, 0)), of(gaussian(9, 8, 1)))


def test_trace_of_root_of_equal_matrices_is_the_trace():
    cov = np.cov(gaussian(50, 6, 0).T)
    assert trace_of_root(cov, cov) == pytest.approx(np.trace(cov), rel=1e-12)


def test_refusals():
    good = of(gaussian(50, 4, 0), "a")
    with pytest.raises(UserError, match="dimension 4 and 3"):
        frechet_distance(good, of(gaussian(50, 3, 0)))
    with pytest.raises(UserError, match="'a' and 'b'"):
        frechet_distance(good, of(gaussian(50, 4, 0), "b"))
    with pytest.raises(UserError, match="at least 2 images"):
        frechet_distance(good, of(gaussian(1, 4, 0)))
    with pytest.raises(UserError, match="at least 2 images"):
        frechet_distance(FeatureStatistics(4), good)
