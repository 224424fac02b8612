"""The aspect ratio tables: their facts, and PixArt's as diffusers has them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from i2i_prior.data.aspect_ratios import SAMPLING, TRAINING, nearest
from i2i_prior.errors import UserError


def pixart():
    """Side -> diffusers' table, its keys and sides made numbers."""
    pytest.importorskip("torch")
    name = "diffusers.pipelines.pixart_alpha.pipeline_pixart_sigma"
    module = pytest.importorskip(name)
    return {
        side: {
            float(ratio): (int(height), int(width))
            for ratio, (height, width) in getattr(
                module, f"ASPECT_RATIO_{side}_BIN"
            ).items()
        }
        for side in (256, 512, 1024, 2048)
    }


def test_sampling_tables_are_those_of_diffusers():
    theirs = pixart()
    assert theirs == SAMPLING
    for side, table in theirs.items():  # the order decides between equals
        assert list(table) == list(SAMPLING[side])
    assert theirs[2048] == TRAINING[2048]


@pytest.mark.parametrize(
    ("tables", "side", "count"),
    [(SAMPLING, s, 33) for s in (256, 512, 1024)]
    + [(SAMPLING, 2048, 40)]
    + [(TRAINING, s, 40) for s in (256, 512, 1024, 2048)],
)
def test_every_size_fits_its_square(tables, side, count):
    table = tables[side]
    assert len(table) == count
    assert min(table) == 0.25
    assert max(table) == 4.0
    assert table[1.0] == (side, side)
    assert list(table) == sorted(table)
    for ratio, (height, width) in table.items():
        assert height % (side // 16) == width % (side // 16) == 0
        assert height * width == pytest.approx(side**2, rel=0.1)
        assert ratio == pytest.approx(height / width, rel=0.02)


def test_every_size_of_a_table_is_nearest_to_itself():
    for table in SAMPLING[1024], TRAINING[512]:
        for ratio, size in table.items():
            assert nearest(*size, table) == (ratio, size)


def test_nearest_is_that_of_diffusers():
    processor = pytest.importorskip("diffusers.image_processor")
    official = processor.PixArtImageProcessor.classify_height_width_bin
    theirs = {str(ratio): size for ratio, size in SAMPLING[1024].items()}
    rng = np.random.default_rng(0)
    for height, width in rng.integers(32, 2048, (300, 2)).tolist():
        ratio, size = nearest(height, width, SAMPLING[1024])
        assert size == official(height, width, theirs)
        assert SAMPLING[1024][ratio] == size


def test_examples():
    assert nearest(1080, 1920, SAMPLING[1024]) == (0.57, (768, 1344))
    assert nearest(30, 10_000, SAMPLING[256]) == (0.25, (128, 512))
    # 0.27 is a ratio to train at, none to sample at.
    assert nearest(512, 1920, TRAINING[1024])[0] == 0.27
    assert nearest(512, 1920, SAMPLING[1024])[0] == 0.28


@pytest.mark.parametrize("sides", [(0, 5), (5, 0), (-1, 5), (math.nan, 5)])
def test_sides_that_are_none_are_refused(sides):
    with pytest.raises(UserError, match="positive sides"):
        nearest(*sides, SAMPLING[1024])
