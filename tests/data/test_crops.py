"""Crops, boxes and views."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from i2i_prior.data import crops
from i2i_prior.data.crops import (
    center_box,
    center_crop,
    flip,
    random_box,
    resize,
    view_box,
)
from i2i_prior.data.sources.registry import open_source
from i2i_prior.data.transforms import Cut, Draft, Jitter


def random_resized_crop(image, size, generator, *limits):
    """A random box, resized, and the box."""
    box = random_box(*image.shape[:2], generator, *limits)
    return resize(image, box, size), box


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def jitter(image, generator, strength) -> np.ndarray:
    """The image as a view that `Jitter` changes."""
    draft = Draft(1, 1, 1, {"view": Cut((0, 0, 1, 1), 1)})
    Jitter(strength)(draft, generator)
    for adjust in draft.cuts["view"].adjust:
        image = adjust(image)
    return image


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A photograph of at least 700 x 700 pixels."""
    source = open_source("builtin:photos")
    pixels = [source[i].data for i in range(len(source))]
    return max(pixels, key=lambda image: min(image.shape[:2]))


def coordinates(height: int, width: int) -> np.ndarray:
    """An image whose red is x and whose green is y."""
    y, x = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([x, y, np.zeros_like(x)], -1)


@pytest.mark.parametrize("shape", [(1, 1), (7, 200), (200, 7), (50, 33)])
@pytest.mark.parametrize("size", [1, 16, 33])
def test_sizes_are_exact_and_boxes_inside(shape, size):
    image = coordinates(*shape)
    generator = rng()
    for _ in range(20):
        crop, box = random_resized_crop(image, size, generator)
        left, top, right, bottom = box
        assert 0 <= left < right <= shape[1]
        assert 0 <= top < bottom <= shape[0]
        assert crop.shape == (size, size, 3)
        assert crop.dtype == np.uint8
        x0, y0, x1, y1 = view_box(box, generator, 0.3)
        assert left <= x0 < x1 <= right
        assert top <= y0 < y1 <= bottom
        look = jitter(crop, generator, 0.4)
        assert look.shape == crop.shape
        assert look.dtype == np.uint8
    assert center_crop(image, size).shape == (size, size, 3)


def test_boxes_follow_the_sampling_rule():
    image = np.zeros((400, 400, 3), np.uint8)
    generator = rng()
    drawn = [
        random_resized_crop(image, 1, generator, (0.1, 0.4))[1]
        for _ in range(3000)
    ]
    left, top, right, bottom = np.array(drawn, float).T
    width, height = right - left, bottom - top
    share = width * height / 400**2
    # No box of these areas is refused, so both laws hold without bias.
    assert share.min() >= 0.095
    assert share.max() <= 0.405
    assert share.mean() == pytest.approx(0.25, abs=0.008)
    assert share.std() == pytest.approx(0.3 / np.sqrt(12), rel=0.06)
    log_ratio = np.log(width / height)
    assert np.abs(log_ratio).max() <= np.log(4 / 3) + 0.02
    assert log_ratio.mean() == pytest.approx(0, abs=0.012)
    assert log_ratio.std() == pytest.approx(
        2 * np.log(4 / 3) / np.sqrt(12), rel=0.06
    )
    place = left / (400 - width)
    assert place.mean() == pytest.approx(0.5, abs=0.025)
    assert place.min() < 0.01
    assert place.max() > 0.99


def test_long_images_fall_back_to_the_largest_central_box():
    image = coordinates(30, 240)
    _, box = random_resized_crop(image, 8, rng(), (0.9, 1.0))
    assert box == (100, 0, 140, 30)
    image = coordinates(240, 30)
    _, box = random_resized_crop(image, 8, rng(), (0.9, 1.0))
    assert box == (0, 100, 30, 140)


def test_the_crop_shows_its_box():
    image = coordinates(200, 250)
    generator = rng(3)
    for _ in range(20):
        crop, (left, top, right, bottom) = random_resized_crop(
            image, 32, generator
        )
        assert crop[..., 0].mean() == pytest.approx(
            (left + right - 1) / 2, abs=1
        )
        assert crop[..., 1].mean() == pytest.approx(
            (top + bottom - 1) / 2, abs=1
        )


def test_crops_depend_on_the_generator_alone():
    image = coordinates(80, 90)
    first, again, other = (
        random_resized_crop(image, 16, rng(seed))[0] for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_resize_is_antialiased_and_stays_in_its_box():
    # Stripes finer than the target's pixels must average out to grey ...
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    result = resize(stripes, (0, 0, 256, 256), 16).astype(int)
    # (the last column and row stand for fewer source pixels).
    assert np.abs(result - 127.5)[:-1, :-1].max() <= 3
    assert np.abs(result - 127.5).max() <= 16
    # ... and white pixels beside the box must not leak into it.
    framed = np.full((40, 40, 3), 255, np.uint8)
    framed[10:30, 10:30] = 50
    assert (resize(framed, (10, 10, 30, 30), 7) == 50).all()


@pytest.mark.parametrize("shape", [(120, 181), (181, 120), (64, 64)])
def test_center_crop_is_resize_then_cut(shape):
    y, x = np.mgrid[: shape[0], : shape[1]]
    smooth = np.stack([x + y, 200 - x, 200 - y], -1).clip(0, 255)
    image = smooth.astype(np.uint8)
    size = 32
    factor = size / min(shape)
    whole = Image.fromarray(image).resize(
        (round(shape[1] * factor), round(shape[0] * factor)),
        Image.Resampling.BICUBIC,
    )
    left, top = (whole.width - size) // 2, (whole.height - size) // 2
    expected = np.asarray(whole)[top : top + size, left : left + size]
    error = np.abs(center_crop(image, size).astype(int) - expected)
    # Half a target pixel apart at most: one step of the ramp.
    assert error.mean() < 3


def test_center_box():
    assert center_box(10, 21) == (5, 0, 15, 10)
    assert center_box(21, 10) == (0, 5, 10, 15)


def test_an_extreme_shape_costs_no_memory():
    image = np.zeros((1, 2_000_000, 3), np.uint8)
    assert center_crop(image, 256).shape == (256, 256, 3)
    assert random_resized_crop(image, 256, rng())[0].shape == (256, 256, 3)


def test_flip():
    image = coordinates(3, 4)
    assert np.array_equal(flip(image)[1, 0], image[1, 3])
    assert np.array_equal(flip(flip(image)), image)
    # Of another order in memory, and not to be written to.
    turned = image.swapaxes(0, 1)[::-1]
    turned.setflags(write=False)
    assert np.array_equal(flip(turned), turned[:, ::-1])


def test_flip_does_without_the_library(monkeypatch):
    image = coordinates(5, 7)
    mirrored = flip(image)
    monkeypatch.setattr(crops, "cv2", None)
    assert np.array_equal(flip(image), mirrored)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((100, 140), 64),  # down a little
        ((190, 190), 64),  # down a lot
        ((40, 30), 64),  # up
        ((64, 64), 64),  # as it is
        ((120, 180), (48, 96)),  # not square
        ((500, 500), 64),  # where Pillow takes over
    ],
)
def test_both_resizers_agree(photo, monkeypatch, shape, size):
    box = (10, 20, 10 + shape[1], 20 + shape[0])
    quick = resize(photo, box, size, quick=True).astype(int)
    left, top, right, bottom = box
    whole = Image.fromarray(photo[top:bottom, left:right]).resize(
        quick.shape[1::-1], Image.Resampling.BICUBIC
    )
    assert np.abs(np.asarray(whole) - quick).mean() < 1
    exact = resize(photo, box, size).astype(int)
    assert np.abs(np.asarray(whole) - exact).mean() < 0.5
    monkeypatch.setattr(crops, "cv2", None)
    assert np.array_equal(resize(photo, box, size, quick=True), exact)


def test_a_quick_resize_is_antialiased_and_stays_in_its_box():
    stripes = np.zeros((192, 192, 3), np.uint8)
    stripes[:, ::2] = 255
    result = resize(stripes, (0, 0, 192, 192), 64, quick=True).astype(int)
    assert np.abs(result - 127.5)[:, 1:-1].max() < 40  # 127.5 where it is not
    framed = np.full((40, 40, 3), 255, np.uint8)
    framed[10:30, 10:30] = 50
    assert (resize(framed, (10, 10, 30, 30), 7, quick=True) == 50).all()


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1, 1), 32),
        ((1, 3), 1),
        ((3, 1), (2, 5)),
        ((1, 40_000), (1, 20_000)),  # sides beyond 16 bits and their sign
        ((70_000, 2), (40_000, 3)),
    ],
)
def test_a_quick_resize_takes_every_size(shape, size):
    image = np.full((*shape, 3), (9, 120, 250), np.uint8)
    image.setflags(write=False)
    result = resize(image, (0, 0, *shape[::-1]), size, quick=True)
    assert result.shape == (*crops.sides(size), 3)
    assert (result == (9, 120, 250)).all()


def test_a_box_between_pixels_is_where_it_says():
    y, x = np.mgrid[:60, :80]
    image = np.stack([3 * x, 4 * y, 0 * x], -1).astype(np.uint8)
    found = resize(image, (10.5, 20.25, 42.5, 52.25), 32).astype(float)
    # Pixel i covers [i, i + 1]: its value 3 i stands at i + 0.5.
    across, down = np.arange(32) + 10.5, np.arange(32) + 20.25
    inner = slice(2, -2)
    wanted = 3 * (across + 0.5 - 0.5)
    assert np.abs(found[0, inner, 0] - wanted[inner]).max() <= 1
    wanted = 4 * (down + 0.5 - 0.5)
    assert np.abs(found[inner, 0, 1] - wanted[inner]).max() <= 1


def test_a_plain_view_is_the_box_itself_and_draws_nothing():
    generator = rng()
    assert view_box((10, 20, 50, 44), generator, 1.0) == (10, 20, 50, 44)
    assert generator.random() == rng().random()


def test_sub_crops_stay_in_the_box_and_keep_its_aspect():
    box = (50, 40, 210, 160)
    drawn = [view_box(box, rng(seed), 0.25) for seed in range(300)]
    left, top, right, bottom = np.array(drawn, float).T
    assert left.min() >= 50
    assert right.max() <= 210
    assert top.min() >= 40
    assert bottom.max() <= 160
    share = (right - left) * (bottom - top) / (160 * 120)
    assert share.min() == pytest.approx(0.25, abs=0.02)
    assert share.max() == pytest.approx(1, abs=0.06)
    aspect = (right - left) / (bottom - top) / (160 / 120)
    assert aspect.min() > 0.85
    assert aspect.max() < 1.16


def test_jitter_is_mild_and_nothing_at_zero():
    plain, generator = coordinates(64, 64), rng(5)
    assert np.array_equal(jitter(plain, generator, 0.0), plain)
    assert generator.random() == rng(5).random()
    changed = jitter(plain, rng(5), 0.2)
    difference = np.abs(changed.astype(int) - plain)
    assert 0 < difference.mean() < 20
    grey = np.full((8, 8, 3), 100, np.uint8)
    values = [jitter(grey, rng(s), 0.3) for s in range(200)]
    # Contrast and saturation leave a grey plane alone: brightness is left.
    means = np.array([value.mean() for value in values])
    assert means.min() >= 69
    assert means.max() <= 131
    assert np.ptp(means) > 50
    assert all(np.ptp(value) == 0 for value in values)
