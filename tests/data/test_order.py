"""Example numbers to records: epochs, and mixtures that keep their weights."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from i2i_prior.data.order import Mixed, Shuffled, order_of, shares


@pytest.mark.parametrize("weights", [(0.7, 0.3), (0.5, 0.25, 0.25), (1.0,)])
def test_a_mixture_keeps_its_weights_everywhere(weights):
    lengths = [50, 7000, 3][: len(weights)]
    order = Mixed(lengths, weights, seed=5)
    starts = np.cumsum([0, *lengths])
    seen = np.array([order[n] for n in range(4000)])
    parts = np.searchsorted(starts, seen, side="right") - 1
    for block in parts.reshape(4, 1000):
        counts = np.bincount(block, minlength=len(weights))
        assert counts.tolist() == [round(1000 * w) for w in weights]
        # And not one part after the other.
        early = np.bincount(block[:200], minlength=len(weights)) / 200
        np.testing.assert_allclose(early, weights, atol=0.12)


def test_each_part_of_a_mixture_has_its_own_epochs():
    order = Mixed([50, 400], (0.5, 0.5), seed=1)
    first = [i for i in map(order.__getitem__, range(1000)) if i < 50]
    for epoch in np.array(first[:500]).reshape(10, 50):
        assert sorted(epoch.tolist()) == list(range(50))
    second = [i for i in map(order.__getitem__, range(1000)) if i >= 50]
    assert sorted(second[:400]) == list(range(50, 450))


def test_parts_of_one_length_are_not_shuffled_alike():
    order = Mixed([40, 40], (0.5, 0.5), seed=1)
    seen = [order[n] for n in range(1000)]
    assert [i for i in seen if i < 40] != [i - 40 for i in seen if i >= 40]


def test_the_seed_decides_and_nothing_else():
    def one(seed):
        order = Mixed([9, 8], (0.6, 0.4), seed)
        return [order[n] for n in range(200)]

    assert one(3) == one(3)
    assert one(3) != one(4)


def test_small_weights_are_not_lost():
    assert shares((0.9999, 0.0001)) == [999, 1]
    counts = shares(np.full(7, 1 / 7))
    assert sum(counts) == 1000
    assert max(counts) - min(counts) == 1


def test_a_source_says_what_order_it_has():
    mixture = SimpleNamespace(parts=["abc", "de"], weights=(0.5, 0.5))
    for order, wanted in (
        (order_of(mixture, 0), Mixed([3, 2], (0.5, 0.5), 0)),
        (order_of("abc", 0), Shuffled(3, 0)),
    ):
        assert [order[n] for n in range(99)] == [wanted[n] for n in range(99)]
