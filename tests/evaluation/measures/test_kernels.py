"""Kernel distances against torch-fidelity and a restatement in torch."""

from __future__ import annotations

import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.evaluation.measures import distances
from i2i_prior.evaluation.measures.kernels import cmmd, kid
from tests.peers.torch_fidelity import load_metric


def rows(count: int, seed: int, shift: float = 0.0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return np.abs(draw.normal(size=(count, 24))) + shift


def test_kid_is_torch_fidelitys():
    """Its subsets in its order, to 9 digits."""
    peer, torch = load_metric("kid"), pytest.importorskip("torch")
    x, y = rows(120, 0, 0.02), rows(90, 1)
    for seed in (2020, 3):
        expected = peer.kid_features_to_metric(
            torch.from_numpy(x),
            torch.from_numpy(y),
            kid_subsets=20,
            kid_subset_size=50,
            rng_seed=seed,
            verbose=False,
        )
        found = kid(x, y, seed=seed, subsets=20, subset_size=50)
        assert found == pytest.approx(tuple(expected.values()), rel=1e-9, abs=0)
    assert kid(y, x, subsets=20, subset_size=50) != found


def test_kid_of_all_rows_is_the_unbiased_estimate():
    x, y = rows(7, 0), rows(7, 1)

    def k(a, b):
        return (a @ b / 24 + 1) ** 3

    within = sum(
        k(s[i], s[j]) / 42
        for s in (x, y)
        for i in range(7)
        for j in range(7)
        if i != j
    )
    expected = within - 2 * np.mean([[k(a, b) for b in y] for a in x])
    mean, deviation = kid(x, y, subsets=3, subset_size=7)
    assert mean == pytest.approx(expected, rel=1e-11)
    assert deviation == pytest.approx(0, abs=1e-12)


def test_kid_of_one_distribution_is_about_0_at_any_count():
    means = [
        kid(rows(40, 2 * s), rows(40, 2 * s + 1), subsets=1, subset_size=40)[0]
        for s in range(60)
    ]
    assert abs(np.mean(means)) < 3 * np.std(means) / np.sqrt(60)
    assert min(means) < 0


@pytest.mark.parametrize("slab", [1 << 22, 100])
def test_cmmd_restated_in_torch(slab, monkeypatch):
    """Checks the published kernel means in float64, for any size of slab."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(distances, "_SLAB", slab)
    x, y = rows(50, 0), rows(40, 1, 0.1)

    def mean_kernel(a, b):
        a, b = (torch.nn.functional.normalize(t, dim=1) for t in (a, b))
        squares = ((a[:, None] - b[None]) ** 2).sum(-1)
        return torch.exp(-squares / (2 * 10.0**2)).mean()

    a, b = torch.from_numpy(x), torch.from_numpy(y)
    kernels = mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b)
    assert cmmd(x, y) == pytest.approx(1000 * kernels.item(), rel=1e-9)
    assert cmmd(x, y) == pytest.approx(cmmd(3 * y, x), rel=1e-12)


def test_cmmd_keeps_its_digits_near_0():
    """Two embeddings at a small angle: 2000 (1 - exp(-|x - y|^2 / 200))."""
    angle = 1e-5
    x, y = np.array([[1.0, 0.0]]), np.array([[np.cos(angle), np.sin(angle)]])
    expected = 2000 * -np.expm1(-((2 * np.sin(angle / 2)) ** 2) / 200)
    assert expected < 1e-8
    assert cmmd(x, y) == pytest.approx(expected, rel=1e-9, abs=0)
    assert cmmd(rows(9, 0), rows(9, 0)) == 0


def test_refusals():
    good = rows(9, 0)
    with pytest.raises(UserError, match="subsets of 1000 images"):
        kid(good, good)
    for measure in (cmmd, lambda x, y: kid(x, y, subset_size=2)):
        with pytest.raises(UserError, match="do not compare"):
            measure(good, good[:, 1:])
        with pytest.raises(UserError, match="NaN"):
            measure(good, np.where(good > 1, np.nan, good))
        with pytest.raises(UserError, match="at least"):
            measure(good, good[:0])
    with pytest.raises(UserError, match="no direction"):
        cmmd(good, np.zeros((2, 24)))
