"""Pixel features: what they see, and what they must not see."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.colour_texture import (
    FEATURES,
    HOG_WEIGHT,
    area_resize,
    load_features,
    orientation_energies,
)

THUMBNAILS = FEATURES["thumbnails"]
COLOUR = FEATURES["colour_texture"]


def noise(count: int = 3, size: int = 32, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (count, size, size, 3), np.uint8)


def stripes(angle: float, period: float = 8.0, size: int = 64) -> np.ndarray:
    """Grey waves that change along `angle` degrees (0: left to right)."""
    down, right = np.mgrid[:size, :size]
    turn = np.deg2rad(angle)
    phase = (right * np.cos(turn) + down * np.sin(turn)) * 2 * np.pi / period
    grey = np.rint(127.5 + 100 * np.sin(phase)).astype(np.uint8)
    return np.repeat(grey[None, ..., None], 3, axis=-1)


@pytest.mark.parametrize(
    ("name", "dim"), [("thumbnails", 320), ("colour_texture", 32)]
)
@pytest.mark.parametrize("shape", [(1, 32, 32), (70, 24, 40), (2, 5, 3)])
def test_shape_and_finiteness(name, dim, shape):
    images = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    found = FEATURES[name](images)
    assert found.shape == (shape[0], dim)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[:1], FEATURES[name](images[:1]), atol=1e-6)


def test_a_flat_image_is_its_colour_and_no_gradient():
    images = np.full((1, 40, 40, 3), (255, 51, 0), np.uint8)
    found = THUMBNAILS(images)[0]
    np.testing.assert_allclose(
        found[:192].reshape(64, 3), [[1, 0.2, 0]] * 64, atol=1e-6
    )
    np.testing.assert_allclose(found[192:], 0, atol=1e-3)
    colour = COLOUR(images)[0]
    np.testing.assert_allclose(colour[:3], [5, 1, 0], atol=1e-5)
    np.testing.assert_allclose(colour[3:8], 0, atol=1e-5)


def test_thumbnail_is_the_mean_of_each_cell():
    images = noise(2, 32)
    cells = images.reshape(2, 8, 4, 8, 4, 3).mean(axis=(2, 4)) / 255
    np.testing.assert_allclose(
        THUMBNAILS(images)[:, :192], cells.reshape(2, -1), atol=1e-6
    )


def test_area_resize_matches_pillows_box_filter():
    image = noise(1, 30)[0, ..., 0].astype(np.float32)
    theirs = Image.fromarray(image).resize((8, 8), Image.Resampling.BOX)
    # Pillow's box takes whole pixels only where the size divides evenly
    mine = area_resize(image[None], 8)[0]
    assert np.abs(mine - np.asarray(theirs)).mean() < 12
    even = Image.fromarray(image).resize((10, 10), Image.Resampling.BOX)
    np.testing.assert_allclose(
        area_resize(image[None], 10)[0], np.asarray(even), rtol=1e-5
    )


def test_area_resize_keeps_the_mean_and_repeats_small_images():
    image = noise(1, 30).astype(np.float32)
    np.testing.assert_allclose(
        area_resize(image, 8).mean(), image.mean(), rtol=1e-5
    )
    small = image[:, :4, :4]
    np.testing.assert_allclose(
        area_resize(small, 8), small.repeat(2, 1).repeat(2, 2), rtol=1e-6
    )


def test_enlarging_pixels_changes_no_thumbnail():
    images = noise(2, 16)
    large = images.repeat(3, axis=1).repeat(3, axis=2)
    np.testing.assert_allclose(
        THUMBNAILS(images)[:, :192], THUMBNAILS(large)[:, :192], atol=1e-6
    )


@pytest.mark.parametrize("bin_index", range(8))
def test_each_orientation_has_its_bin(bin_index):
    images = stripes(22.5 * bin_index)
    histogram = THUMBNAILS(images)[0, 192:].reshape(16, 8)
    assert (histogram.argmax(axis=1) == bin_index).all()
    energies = COLOUR(images)[0, 8:16]
    assert energies.argmax() == bin_index


def test_orientation_shares_add_up_to_the_gradient():
    grey = noise(1, 20)[..., 0] / np.float32(255)
    down, right = np.gradient(grey, axis=(1, 2))
    np.testing.assert_allclose(
        orientation_energies(grey).sum(-1), np.hypot(down, right), atol=1e-6
    )


def test_gradients_do_not_see_brightness_or_contrast():
    images = noise(2, 64) // 4 * 2
    brighter = images + np.uint8(40)
    stronger = images * np.uint8(2)
    hog = THUMBNAILS(images)[:, 192:]
    np.testing.assert_allclose(
        np.linalg.norm(hog, axis=1), HOG_WEIGHT, rtol=1e-3
    )
    for other in (brighter, stronger):
        np.testing.assert_allclose(THUMBNAILS(other)[:, 192:], hog, atol=2e-3)
        assert np.abs(THUMBNAILS(other)[:, :192] - 0).max() > 0.1


def test_mirror_images():
    """Cells change sides and an orientation t becomes 180 - t."""
    images = noise(2, 64)
    mirrored = images[:, :, ::-1]
    hog = THUMBNAILS(images)[:, 192:].reshape(2, 4, 4, 8)
    expected = hog[:, :, ::-1][..., -np.arange(8) % 8]
    np.testing.assert_allclose(
        THUMBNAILS(mirrored)[:, 192:].reshape(2, 4, 4, 8), expected, atol=1e-5
    )


def test_colour_texture_does_not_see_where():
    images = noise(2, 64)
    turned = np.roll(images, (16, 24), axis=(1, 2))
    difference = np.abs(COLOUR(images) - COLOUR(turned))
    assert difference[:, :8].max() < 1e-4
    assert difference[:, 8:24].max() < 0.2  # the seams are new edges
    assert np.abs(THUMBNAILS(images) - THUMBNAILS(turned)).max() > 0.2


@pytest.mark.parametrize(("period", "ring"), [(64, 0), (16, 3), (3, 7)])
def test_rings_are_frequencies(period, ring):
    rings = COLOUR(stripes(0, period))[0, 24:]
    assert rings.argmax() == ring


def test_features_from_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "def reds(images):\n    return images[..., 0].mean(axis=(1, 2))"
        "[:, None]\n\ndef flat(images):\n    return images.mean()\n\n"
        "def one(images):\n    return [[0.0]]\n"
    )
    reds = load_features(f"{file}:reds")
    images = noise(70)
    np.testing.assert_allclose(
        reds(images)[:, 0], images[..., 0].mean(axis=(1, 2))
    )
    assert reds.name.startswith("mine.py:reds@")
    assert reds.label == "FD-mine.py:reds"
    file.write_text(file.read_text() + "# changed\n")
    assert load_features(f"{file}:reds").name != reds.name
    for function in ("flat", "one"):
        with pytest.raises(UserError, match=r"\(N, d\)"):
            load_features(f"{file}:{function}")(images)
    with pytest.raises(UserError, match="no function"):
        load_features(f"{file}:absent")


def test_features_by_name():
    assert load_features("thumbnails") is THUMBNAILS
    with pytest.raises(UserError, match="thumbnails, colour_texture"):
        load_features("inception")
    with pytest.raises(UserError, match="no features file"):
        load_features("absent.py:f")


def test_no_metric_is_called_fid():
    assert THUMBNAILS.label == "FD-thumb8hog"
    assert COLOUR.label == "FD-colourtexture"
    assert all(found.label.startswith("FD-") for found in FEATURES.values())
