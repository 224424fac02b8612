"""Batches of one shape each: the nearest ratio, whole epochs, no state."""

from __future__ import annotations

import numpy as np
import pytest

from i2i_prior.data.aspect_ratios import TRAINING, nearest
from i2i_prior.data.buckets import Buckets, assign
from i2i_prior.errors import UserError

TABLE = TRAINING[256]


def sizes(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(100, 900, (count, 2))


def records_of(buckets: Buckets, step: int) -> list[int]:
    """The records of a batch of 8."""
    return [buckets[number] for number in range(8 * step, 8 * step + 8)]


def test_every_image_goes_to_the_nearest_ratio():
    ratios = np.array(list(TABLE))
    some = np.concatenate([sizes(300), [[1, 1000], [1000, 1], [203, 200]]])
    for size, bucket in zip(some, assign(some, ratios), strict=True):
        assert ratios[bucket] == nearest(*size, TABLE)[0]


def test_an_epoch_shows_every_image_at_most_once():
    some = sizes(2000)
    buckets = Buckets(some, TABLE, 8, seed=1)
    ratios = np.array(list(TABLE))
    chosen = assign(some, ratios)
    for epoch in range(2):
        seen = []
        for step in range(buckets.batches):
            step += epoch * buckets.batches
            shape, records = buckets.shape(step), records_of(buckets, step)
            found = {TABLE[float(ratios[k])] for k in chosen[records]}
            assert found == {shape}
            seen += records
        assert len(set(seen)) == len(seen)
        # What does not fill a batch: below 8 of each ratio.
        assert len(seen) > 2000 - 8 * len(TABLE)
    first, again = (Buckets(some, TABLE, 8, seed=1) for _ in range(2))
    for step in (0, 17, 100_000):
        assert first.shape(step) == again.shape(step)
        assert records_of(first, step) == records_of(again, step)
    shapes = [first.shape(step) for step in range(40)]
    assert len(set(shapes)) > 5  # and they are mixed


def test_too_few_images_for_any_batch():
    with pytest.raises(UserError, match="has 64 images of 20"):
        Buckets(sizes(20), TABLE, 64, seed=0)
