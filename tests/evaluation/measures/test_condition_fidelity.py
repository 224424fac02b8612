"""Cosine, top-1 and diversity of embeddings with known results."""

from __future__ import annotations

import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.evaluation.measures.conditions import (
    concatenate,
    condition_fidelity,
    row_interval,
)


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(0)


def test_copies_are_faithful_and_all_alike(draw):
    known = draw.normal(size=(12, 16))
    # Lengths do not count.
    samples = np.stack([known, 3 * known], axis=1)
    found = condition_fidelity(known, samples).summary()
    assert found["fidelity_cosine"].value == pytest.approx(1)
    assert found["fidelity_top1"].value == 1
    assert found["fidelity_diversity"].value == pytest.approx(0, abs=1e-12)


def test_a_model_that_ignores_conditions_is_at_chance(draw):
    known, drawn = draw.normal(size=(2000, 64)), draw.normal(size=(2000, 2, 64))
    groups = [
        condition_fidelity(known[i:][:50], drawn[i:][:50])
        for i in range(0, 2000, 50)
    ]
    whole = concatenate(groups)
    found = whole.summary()
    top1, cosine = found["fidelity_top1"], found["fidelity_cosine"]
    assert top1.value == pytest.approx(1 / 50, abs=0.01)
    assert found["fidelity_diversity"].value == pytest.approx(1, abs=0.01)
    assert top1.low < 1 / 50 < top1.high
    assert cosine.low < found["fidelity_unrelated"].value < cosine.high


def test_against_loops_over_every_pair(draw):
    known, drawn = draw.normal(size=(5, 3)), draw.normal(size=(5, 4, 3))
    found = condition_fidelity(known, drawn)

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    for i in range(5):
        table = np.array([[cosine(c, s) for c in known] for s in drawn[i]])
        assert found.cosine[i] == pytest.approx(table[:, i].mean())
        others = np.delete(table, i, axis=1)
        assert found.unrelated[i] == pytest.approx(others.mean())
        assert found.top1[i] == np.mean(table.argmax(1) == i)
        pairs = [
            1 - cosine(drawn[i, k], drawn[i, m])
            for k in range(4)
            for m in range(k)
        ]
        assert found.within[i] == pytest.approx(np.mean(pairs))
        between = [
            1 - cosine(s, t)
            for j in range(5)
            if j != i
            for s in drawn[i]
            for t in drawn[j]
        ]
        assert found.between[i] == pytest.approx(np.mean(between))


def test_a_tie_is_shared(draw):
    known = np.repeat(draw.normal(size=(2, 8)), 2, axis=0)
    found = condition_fidelity(known, known[:, None])
    assert found.top1.tolist() == [0.5] * 4
    summary = found.summary()
    assert "fidelity_diversity" not in summary
    # Four conditions give no intervals.
    assert all(isinstance(value, float) for value in summary.values())


def test_the_jackknife_of_a_mean_is_its_standard_error(draw):
    rows = draw.normal(size=40)
    found = row_interval(np.mean, rows, blocks=40)
    assert found.value == rows.mean()
    error = rows.std(ddof=1) / np.sqrt(40)
    # 2.0227 is the 97.5 % quantile of Student's t with 39 degrees.
    half = found.high - found.value
    assert half == pytest.approx(2.0227 * error, rel=1e-4)
    assert found.value - found.low == pytest.approx(half)


def test_the_interval_covers_as_often_as_it_says(draw):
    covered = 0
    for _ in range(300):
        x, y = draw.exponential(size=100), draw.exponential(size=100) + 1
        found = row_interval(lambda a, b: a.mean() / b.mean(), x, y)
        covered += found.low <= 0.5 <= found.high
    assert 0.91 <= covered / 300 <= 0.985


def test_mistakes(draw):
    known = draw.normal(size=(3, 4))
    with pytest.raises(UserError, match="at least 2 conditions"):
        condition_fidelity(known[:1], known[:1, None])
    for bad in (0.0, np.nan, np.inf):
        spoilt = known.copy()
        spoilt[1] = bad
        with pytest.raises(UserError, match="is 0 or not finite"):
            condition_fidelity(spoilt, known[:, None])
