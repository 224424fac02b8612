"""Images that are hardly more than a line are not resized in full."""

from __future__ import annotations

import numpy as np
import pytest

from i2i_prior.models import preprocess as module
from i2i_prior.models.preprocess import PREPROCESSING, square

SIDE = 32


@pytest.mark.parametrize("shape", [(1, 30_000), (30_000, 1)])
def test_a_line_takes_no_memory(shape):
    image = np.full((*shape, 3), 90, np.uint8)
    # In full it would be 224 x 6.7 million pixels.
    assert (square(image, PREPROCESSING["dino"], 224) == 90).all()


@pytest.mark.parametrize("name", ["dino", "dinov2", "clip"])
@pytest.mark.parametrize("shape", [(3, 200), (201, 4), (5, 170)])
def test_a_line_is_what_it_was(name, shape, monkeypatch):
    record = PREPROCESSING[name]
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
    cut = square(image, record, SIDE).astype(int)
    monkeypatch.setattr(module, "_LINE", 1000)
    whole = square(image, record, SIDE).astype(int)
    # The corners are rounded to whole pixels of the result: half of one, or a
    # twentieth of a noisy pixel of the image, and a whole one would be 40.
    assert np.abs(cut - whole).mean() < 5
