"""Frechet distance against closed forms, 50 digits, scipy, torch-fidelity."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i_prior.errors import UserError
from i2i_prior.evaluation.measures.frechet import (
    frechet_distance,
    reference_factor,
)
from i2i_prior.evaluation.measures.statistics import FeatureStatistics
from tests.peers.torch_fidelity import load_metric


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
    """Checks the closed form in a common rotated basis."""
    basis, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(6, 6)))
    std_a, std_b = np.linspace(0.5, 3, 6), np.linspace(2, 0.1, 6)
    a = with_moments(np.zeros(6), basis * std_a**2 @ basis.T)
    b = with_moments(np.ones(6), basis * std_b**2 @ basis.T)
    expected = 6 + ((std_a - std_b) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-11)


def exact(x: np.ndarray, y: np.ndarray) -> float:
    """From the features, at 50 digits: sum of the singular values of X Y^T.

    X and Y are the centred rows over the root of their number less one.
    """
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(50):
        parts = [mpmath.matrix(rows.tolist()) for rows in (x, y)]
        means, centred = [], []
        for part in parts:
            ones = mpmath.ones(part.rows, 1)
            mean = (part.T * ones) / part.rows
            means.append(mean)
            scale = mpmath.sqrt(part.rows - 1)
            centred.append((part - ones * mean.T) / scale)
        cross = centred[0] * centred[1].T
        gram = cross * cross.T if cross.rows <= cross.cols else cross.T * cross
        roots = sum(
            mpmath.sqrt(abs(value))
            for value in mpmath.eigsy(gram, eigvals_only=True)
        )
        squares = sum(mpmath.mnorm(part, "f") ** 2 for part in centred)
        gap = mpmath.norm(means[0] - means[1]) ** 2
        return float(gap + squares - 2 * roots)


def straight(a: FeatureStatistics, b: FeatureStatistics, trace) -> float:
    gap = ((a.mean - b.mean) ** 2).sum() + np.trace(a.cov + b.cov)
    return float(gap - 2 * trace(a.cov, b.cov))


@pytest.mark.parametrize("counts", [(300, 200), (5000, 100), (65, 66)])
def test_agrees_with_scipys_matrix_root(counts):
    linalg = pytest.importorskip("scipy.linalg")
    a, b = (of(gaussian(n, 64, seed)) for seed, n in enumerate(counts))
    expected = straight(a, b, lambda s, t: np.trace(linalg.sqrtm(s @ t)).real)
    assert expected > 1
    limit = 1e-9 * expected
    assert frechet_distance(a, b) == pytest.approx(expected, abs=limit)
    cached = frechet_distance(reference_factor(a), b)
    assert cached == pytest.approx(expected, abs=limit)


def test_agrees_with_torch_fidelity():
    torch_fidelity, torch = load_metric("fid"), pytest.importorskip("torch")
    x, y = gaussian(400, 64, 0), gaussian(300, 64, 1)
    moments = [
        torch_fidelity.fid_features_to_statistics(torch.from_numpy(rows))
        for rows in (x, y)
    ]
    found = torch_fidelity.fid_statistics_to_metric(*moments, verbose=False)
    expected = found["frechet_inception_distance"]
    limit = 1e-9 * max(1, expected)
    assert frechet_distance(of(x), of(y)) == pytest.approx(expected, abs=limit)


@pytest.mark.filterwarnings("ignore:.*has rank at most:UserWarning")
@pytest.mark.parametrize("counts", [(6, 8), (6, 40), (40, 6), (17, 17)])
def test_few_images_against_fifty_digits(counts):
    """Checks few images, where the direct way is wrong by 1e-7 and more."""
    x, y = (gaussian(n, 16, seed) for seed, n in enumerate(counts))
    a, b = of(x), of(y)
    expected = exact(x, y)
    for found in (
        frechet_distance(a, b),
        frechet_distance(b, a),
        frechet_distance(reference_factor(a), b),
    ):
        assert found == pytest.approx(expected, rel=1e-12)

    def eigenvalues(s, t):
        values = np.linalg.eigvals(s @ t).astype(complex)
        return np.sqrt(values).real.sum()

    missed = abs(straight(a, b, eigenvalues) - expected)
    assert (missed > 1e-8) == (min(counts) < 16)


def test_features_of_very_different_spread_keep_their_digits():
    """Variances over 14 decades, where squared ones fall under rounding."""
    spread = 10.0 ** np.linspace(0, -7, 12)
    x, y = gaussian(60, 12, 0) * spread, gaussian(50, 12, 1) * spread
    expected = exact(x, y)
    assert frechet_distance(of(x), of(y)) == pytest.approx(expected, rel=1e-12)


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
    """Checks orthogonal supports: no root, FD = |d|^2 + Tr + Tr."""
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


@pytest.mark.parametrize(("count", "rank"), [(50, 6), (7, 6), (4, 3)])
def test_a_factor_gives_the_covariance_back(count, rank):
    statistics = of(gaussian(count, 6, 0), "a")
    factor = reference_factor(statistics)
    assert (factor.root.shape[1], factor.dim, factor.count) == (rank, 6, count)
    assert factor.features == "a"
    np.testing.assert_allclose(
        factor.root @ factor.root.T, statistics.cov, rtol=1e-11, atol=1e-12
    )


def test_numbers_that_never_vary_lower_the_rank():
    rows = gaussian(50, 6, 0)
    rows[:, 2] = 7.0
    assert reference_factor(of(rows)).root.shape == (6, 5)
    still = of(np.ones((5, 3)))
    assert reference_factor(still).root.shape == (3, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert frechet_distance(still, of(np.full((9, 3), 3.0))) == 12.0
        assert frechet_distance(of(rows), of(rows)) < 1e-12


@st.composite
def two_sets(draw):
    """Rows of two sets of one width, of any count from 2 and any rank."""
    dim = draw(st.integers(1, 5))
    sets = []
    for _ in range(2):
        count, seed = draw(st.integers(2, 12)), draw(st.integers(0, 999))
        sets.append(gaussian(count, dim, seed) * draw(st.integers(0, 3)))
    return sets


@pytest.mark.filterwarnings("ignore:.*has rank at most:UserWarning")
@settings(max_examples=60, deadline=None, derandomize=True)
@given(two_sets(), st.integers(0, 99))
def test_what_holds_for_any_two_sets(sets, seed):
    """Symmetric, 0 for equals, blind to turning, quadratic in the scale."""
    x, y = sets
    found = frechet_distance(of(x), of(y))
    size = 1 + found + (x**2).sum() + (y**2).sum()
    assert frechet_distance(of(y), of(x)) == pytest.approx(
        found, abs=1e-12 * size
    )
    assert 0 <= frechet_distance(of(x), of(x)) < 1e-12 * size
    turn, _ = np.linalg.qr(gaussian(x.shape[1], x.shape[1], seed))
    turned = frechet_distance(of(x @ turn * 3), of(y @ turn * 3))
    # a rank that rounding decides may cost the root of eps
    assert turned == pytest.approx(9 * found, abs=1e-7 * size)


def test_a_covariance_with_negative_variance_is_warned_about():
    a = of(gaussian(50, 3, 0))
    bad = FeatureStatistics.of_covariance(
        np.zeros(3), np.diag([1.0, 1.0, -1e-3]), count=50
    )
    with pytest.warns(UserWarning, match=r"eigenvalue -0.001 next to 1"):
        found = frechet_distance(a, bad)
    clipped = FeatureStatistics.of_covariance(
        np.zeros(3), np.diag([1.0, 1.0, 0.0]), count=50
    )
    expected = frechet_distance(a, clipped) - 1e-3  # of the trace
    assert found == pytest.approx(expected, abs=1e-12)


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
    broken = of(gaussian(50, 4, 0))
    broken.moment[1, 1] = np.nan
    for pair in ((broken, good), (good, broken)):
        with pytest.raises(UserError, match="NaN"):
            frechet_distance(*pair)
    with pytest.raises(UserError, match="NaN"):
        frechet_distance(reference_factor(good), broken)
