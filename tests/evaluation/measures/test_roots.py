"""Factors of covariances of few images, and of what is no covariance."""

from __future__ import annotations

import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.evaluation.measures.frechet import covariance_root, narrow, span


@pytest.mark.parametrize("decades", [0, 6])
@pytest.mark.parametrize("count", [2, 9, 22, 40, 90])
def test_a_root_gives_its_covariance_back(count, decades):
    """Narrow or not, with no more columns than the images allow."""
    spread = 10.0 ** np.linspace(0, -decades, 64)
    rows = np.random.default_rng(count).normal(size=(count, 64)) * spread
    cov = np.cov(rows, rowvar=False)
    assert narrow(count - 1, 64) == (count <= 23)
    root = covariance_root(cov, count - 1)
    assert root.shape[1] <= min(count - 1, 64)
    np.testing.assert_allclose(root @ root.T, cov, atol=1e-13)


def test_a_span_holds_all():
    rows = np.random.default_rng(0).normal(size=(20, 64))
    matrix = rows.T @ rows
    basis = span(matrix, 20)
    assert basis.shape == (64, 30)
    np.testing.assert_allclose(basis.T @ basis, np.eye(30), atol=1e-13)
    np.testing.assert_allclose(basis @ (basis.T @ matrix), matrix, atol=1e-11)


def test_what_is_no_covariance():
    with pytest.raises(UserError, match=r"eigenvalue -0.6 next to 1, which"):
        covariance_root(np.eye(8) - 0.2, 100)
    slightly = np.diag([1.0] * 7 + [-1e-4])
    with pytest.warns(UserWarning, match="not computed in float64"):
        assert covariance_root(slightly, 100).shape == (8, 7)
