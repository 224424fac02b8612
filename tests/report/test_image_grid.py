"""Grids of images, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from i2i_prior.errors import UserError
from i2i_prior.report.image_grid import (
    condition_grid,
    from_uint8,
    grid,
    save_gif,
    save_png,
)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def test_every_level_survives_the_way_there_and_back():
    levels = np.arange(256, dtype=np.uint8)
    inside = from_uint8(levels)
    assert inside.dtype == np.float32
    assert (inside[0], inside[-1]) == (-1, 1)
    np.testing.assert_array_equal(np.rint(inside * 127.5 + 127.5), levels)


def test_grid_geometry():
    images = noise(5, 4, 6)
    sheet = grid(images, columns=3, pad=2)
    assert sheet.shape == (2 * 4 + 3 * 2, 3 * 6 + 4 * 2, 3)
    np.testing.assert_array_equal(sheet[2:6, 10:16], images[1])
    np.testing.assert_array_equal(sheet[8:12, 2:8], images[3])
    left = np.ones(sheet.shape[:2], bool)
    for index in range(5):
        top, start = 2 + index // 3 * 6, 2 + index % 3 * 8
        left[top : top + 4, start : start + 6] = False
    assert (sheet[left] == 255).all()


def test_grid_of_rows_and_columns():
    images = noise(2, 3, 4, 4)
    sheet = grid(images, pad=0)
    np.testing.assert_array_equal(sheet[4:8, 8:12], images[1, 2])
    np.testing.assert_array_equal(sheet, grid(images.reshape(6, 4, 4, 3), 3, 0))


def test_scaling():
    images = noise(1, 4, 4)
    nearest = grid(images, pad=0, scale=3)
    np.testing.assert_array_equal(nearest[::3, ::3], images[0])
    np.testing.assert_array_equal(nearest[2::3, 2::3], images[0])


def test_labels_are_outside_the_images():
    images = noise(4, 30, 40)
    plain = grid(images, columns=2)
    above = grid(images, columns=2, column_labels=["one", "two"])
    lead = above.shape[0] - plain.shape[0]
    np.testing.assert_array_equal(above[lead:], plain)
    for start in (2, 44):
        assert (above[:lead, start : start + 40] < 128).any()
    both = grid(
        images, columns=2, row_labels=["cat", "dog"], column_labels=["a", "b"]
    )
    aside = both.shape[1] - plain.shape[1]
    np.testing.assert_array_equal(both[lead:, aside:], plain)
    assert (both[lead : lead + 32, :aside] < 128).any()
    assert (both[:lead, :aside] == 255).all()


def test_condition_grid_sets_the_condition_apart():
    conditions, variations = noise(3, 32, 32), noise(3, 4, 32, 32)
    sheet = condition_grid(conditions, variations)
    size, pad, gap, header = 96, 2, 12, 20
    assert sheet.shape == (
        header + 3 * (size + pad) + pad,
        size + 2 * pad + gap + 4 * (size + pad) + pad,
        3,
    )
    top = header + pad + size + pad
    np.testing.assert_array_equal(
        sheet[top : top + 96 : 3, pad : pad + 96 : 3], conditions[1]
    )
    start = size + 2 * pad + gap + pad + 2 * (size + pad)
    np.testing.assert_array_equal(
        sheet[top : top + 96 : 3, start : start + 96 : 3], variations[1, 2]
    )
    assert (sheet[header:, size + 2 * pad : size + 2 * pad + gap] == 255).all()
    assert (sheet[:header, :size] < 128).any()
    assert (sheet[:header, size + 20 :] < 128).any()


def test_condition_grid_brings_conditions_to_size():
    sheet = condition_grid(noise(2, 64, 48), noise(2, 3, 16, 16))
    assert sheet.shape == (20 + 2 * 98 + 2, 100 + 12 + 3 * 98 + 2, 3)
    with pytest.raises(UserError, match="condition grid needs"):
        condition_grid(noise(2, 8, 8), noise(3, 3, 8, 8))


@pytest.mark.parametrize(
    "bad",
    [np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4, 1), np.uint8), noise(0, 4, 4)],
)
def test_wrong_images(bad):
    with pytest.raises(UserError):
        grid(bad)


def test_png_roundtrip_leaves_one_file(tmp_path):
    image = noise(5, 7)
    save_png(tmp_path / "deep" / "a.png", image)
    with Image.open(tmp_path / "deep" / "a.png") as read:
        np.testing.assert_array_equal(np.asarray(read), image)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.png"]


def greys(count: int) -> np.ndarray:
    levels = np.linspace(0, 250, count).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, 8, 8, 3)).copy()


def test_gif_frames(tmp_path):
    frames, order = greys(4), [0, 1, 2, 3, 2, 1]
    path = tmp_path / "a.gif"
    save_gif(path, frames)
    with Image.open(path) as gif:
        assert gif.n_frames == len(order)
        assert gif.info["loop"] == 0
        for index, frame in enumerate(order):
            gif.seek(index)
            assert gif.info["duration"] == 100
            found = np.asarray(gif.convert("RGB")).astype(int)
            assert abs(found - frames[frame].astype(int)).max() <= 1


@pytest.mark.parametrize("count", [1, 2])
def test_short_gifs(tmp_path, count):
    save_gif(tmp_path / "a.gif", greys(count))
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == count
