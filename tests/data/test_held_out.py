"""Fixed crops to measure on."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from i2i_prior.data.crops import center_crop
from i2i_prior.data.held_out import each_example
from i2i_prior.data.sources.registry import open_source
from i2i_prior.errors import UserError


def evaluation_crops(source, count, size, seed=0):
    """The crops of a single cut in one array."""
    examples = each_example(source, count, {"image": ("", size)}, seed=seed)
    return np.stack([example["image"] for example in examples])


@pytest.fixture
def source(tmp_path):
    """Eight ramps of reds 0, 20, ...; number 5 is damaged."""
    for i in range(8):
        y, x = np.mgrid[:30, :40]
        array = np.stack([np.full_like(x, 20 * i), x * 6, y * 8], -1)
        file = io.BytesIO()
        Image.fromarray(array.astype(np.uint8)).save(file, "PNG")
        data = file.getvalue() if i != 5 else b"junk"
        (tmp_path / f"{i}.png").write_bytes(data)
    return open_source(f"folder:{tmp_path}")


def test_crops_of_few_images_are_spread_evenly_and_fixed(source):
    crops = evaluation_crops(source, 17, 8)
    assert crops.shape == (17, 8, 8, 3)
    assert crops.dtype == np.uint8
    assert np.array_equal(crops, evaluation_crops(source, 17, 8))
    assert not np.array_equal(crops, evaluation_crops(source, 17, 8, seed=1))
    shown = crops[:, 0, 0, 0] // 20
    counts = np.bincount(shown, minlength=8)
    assert counts[5] == 0
    assert sorted(counts[counts > 0].tolist()) == [2, 2, 2, 2, 3, 3, 3]
    assert len(np.unique(crops.reshape(17, -1), axis=0)) == 17


def test_crops_of_many_images_are_their_central_squares(source):
    crops = evaluation_crops(source, 6, 8)
    shown = (crops[:, 0, 0, 0] // 20).tolist()
    assert len(set(shown)) == 6
    assert 5 not in shown
    for crop, index in zip(crops, shown, strict=True):
        image = np.asarray(Image.open(io.BytesIO(source[index].data)))
        assert np.array_equal(crop, center_crop(image, 8))
    fewer = evaluation_crops(source, 3, 8)
    assert np.array_equal(crops[:3], fewer)


def test_too_few_readable_images_are_told(source, tmp_path):
    with pytest.raises(UserError, match="Only 7 of 8"):
        evaluation_crops(source, 8, 8)
    for i in range(8):
        (tmp_path / f"{i}.png").write_bytes(b"")
    with pytest.raises(UserError, match="no readable image"):
        evaluation_crops(source, 20, 8)


def test_held_out_photos_give_as_many_crops_as_asked():
    crops = evaluation_crops(open_source("builtin:photos/heldout"), 50, 16)
    assert crops.shape == (50, 16, 16, 3)
    assert len(np.unique(crops.reshape(50, -1), axis=0)) == 50
