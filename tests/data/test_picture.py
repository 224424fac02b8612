"""Pictures that are decoded late, once, and no larger than need be."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from i2i_prior.data import crops, decode_image, decoding
from i2i_prior.data.crops import random_box, resize, view_box
from i2i_prior.data.decode_image import BrokenImage, Picture, decode
from i2i_prior.data.pipeline import DataOptions, Pipeline
from i2i_prior.data.record import Record
from i2i_prior.data.sources.registry import open_source


def encoded(image: Image.Image, form: str = "JPEG", **kwargs) -> Record:
    file = io.BytesIO()
    image.save(file, form, **kwargs)
    return Record("x", file.getvalue())


def oriented(image: Image.Image, orientation: int, **kwargs) -> Record:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, exif=exif, **kwargs)


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    sources = (
        open_source("builtin:photos"),
        open_source("builtin:photos/heldout"),
    )
    return [source[i].data for source in sources for i in range(len(source))]


@pytest.fixture
def scales(monkeypatch) -> list[int]:
    """At which scales pixels were decoded."""
    seen = []

    def counting(data, header, shrink=1):
        seen.append(shrink)
        return decoding.decode_stored(data, header, shrink)

    monkeypatch.setattr(decode_image, "decode_stored", counting)
    return seen


def test_the_size_costs_no_decoding(scales):
    picture = Picture(oriented(Image.new("RGB", (40, 24)), 6))
    assert (picture.height, picture.width) == (40, 24)
    # All pixels are missing, and the header does not tell.
    whole = encoded(Image.effect_noise((640, 480), 50)).data
    picture = Picture(Record("x", whole[: len(whole) // 4]))
    assert (picture.height, picture.width) == (480, 640)
    assert scales == []
    with pytest.raises(BrokenImage, match="truncated"):
        picture.cut([((0, 0, 9, 9), 9)])


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("RGB", {"progressive": True}),
        ("RGB", {"subsampling": 0, "quality": 30}),
        ("L", {}),
        ("CMYK", {}),
    ],
)
def test_jpeg_pixels_are_pillows_own(photos, mode, options):
    image = Image.fromarray(photos[0]).convert(mode)
    record = encoded(image, **options)
    wanted = Image.open(io.BytesIO(record.data)).convert("RGB")
    assert np.array_equal(decode(record), np.asarray(wanted))


def test_minor_damage_passes_as_pillow_lets_it(photos):
    data = encoded(Image.fromarray(photos[0])).data
    junk = data[:-2] + b"junk" + data[-2:]
    assert decode(Record("x", junk)).shape == photos[0].shape


def test_without_the_fast_decoder(photos, monkeypatch):
    record = encoded(Image.fromarray(photos[0]))
    parts = [((20, 30, 281, 290), 40)]
    pixels, (cut,) = decode(record), Picture(record).cut(parts)
    monkeypatch.setattr(decoding, "simplejpeg", None)
    assert np.array_equal(decode(record), pixels)
    assert np.array_equal(Picture(record).cut(parts)[0], cut)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(100, 60), (25, 15)])
def test_boxes_are_upright_at_every_scale(orientation, size, scales):
    y, x = np.mgrid[:301, :403]
    stored = np.stack([x / 2, y / 2, 120 + 0 * x], -1).astype(np.uint8)
    record = oriented(
        Image.fromarray(stored), orientation, quality=95, subsampling=0
    )
    picture, upright = Picture(record), decode(record)
    assert upright.shape == (picture.height, picture.width, 3)
    box = (31, 42, 231, 202)
    (cut,) = picture.cut([(box, size)])
    assert cut.shape == (*size, 3)
    error = np.abs(cut.astype(int) - resize(upright, box, size))
    assert error.mean() < 0.6
    assert scales == [1, {100: 1, 25: 4}[size[0]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_random_boxes_move_to_whole_stored_pixels(orientation, monkeypatch):
    y, x = np.mgrid[:301, :403]  # neither is a multiple of the scale
    stored = np.stack([x / 2, y / 2, 120 + 0 * x], -1).astype(np.uint8)
    record = oriented(
        Image.fromarray(stored), orientation, quality=95, subsampling=0
    )
    picture, upright, boxes = Picture(record), decode(record), []

    def noting(image, box, size, quick=False):
        boxes.append(box)
        return resize(image, box, size, quick)

    monkeypatch.setattr(decode_image, "resize", noting)
    width, height = picture.width, picture.height
    rng = np.random.default_rng(orientation)
    wanted = [(0, 0, width, height), (width - 93, height - 91, width, height)]
    wanted += [random_box(height, width, rng, (0.1, 0.4)) for _ in range(6)]
    for box in wanted:
        (cut,) = picture.cut([(box, 15)], exact=False)
        assert all(type(edge) is int for edge in boxes[-1])
        error = np.abs(cut.astype(int) - resize(upright, box, 15))
        # A third of a pixel of the result is up to five levels here.
        assert error.mean(axis=(0, 1)).max() < 5


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 13, 29])
def test_no_box_is_empty_after_it_was_moved(side):
    record = encoded(Image.new("RGB", (side, 40), (9, 120, 250)))
    rng = np.random.default_rng(side)
    for _ in range(50):
        box = random_box(40, side, rng, (0.02, 1.0), (0.1, 10))
        inner = view_box(box, rng, 0.1)
        parts = [(box, 2), (inner, 1), (box, (1, 3))]
        for cut in Picture(record).cut(parts, exact=False):
            assert np.abs(cut.astype(int) - (9, 120, 250)).max() < 8


def test_a_view_stays_in_the_targets_box_after_both_were_moved(monkeypatch):
    record = encoded(Image.effect_noise((1001, 803), 50))
    boxes = []

    def noting(image, box, size, quick=False):
        boxes.append(box)
        return resize(image, box, size, quick)

    monkeypatch.setattr(decode_image, "resize", noting)
    rng = np.random.default_rng(0)
    for _ in range(30):
        box = random_box(803, 1001, rng)
        seen = view_box(box, rng, 0.25)
        Picture(record).cut([(box, 32), (seen, 16)], exact=False)
        (left, top, right, bottom), view = boxes[-2:]
        assert left <= view[0] < view[2] <= right
        assert top <= view[1] < view[3] <= bottom


def test_what_is_exact_needs_no_opencv(photos, monkeypatch):
    records = [encoded(Image.fromarray(photos[0])), Record("x", photos[0])]
    parts = [((20, 30, 84, 94), 48)]
    found = [Picture(record).cut(parts)[0] for record in records]
    monkeypatch.setattr(crops, "cv2", None)
    for record, cut in zip(records, found, strict=True):
        assert np.array_equal(Picture(record).cut(parts)[0], cut)
        loose = Picture(record).cut(parts, exact=False)[0]
        assert np.array_equal(loose, cut)


def test_all_parts_come_from_one_decoding(photos, scales):
    record = encoded(Image.fromarray(photos[0]))
    height, width = photos[0].shape[:2]
    whole = (0, 0, width, height)
    side = min(height, width)
    first, second = Picture(record).cut([(whole, side // 9), (whole, side)])
    assert scales == [1]  # as the larger part needs it
    assert first.shape == (side // 9, side // 9, 3)
    assert second.shape == (side, side, 3)
    Picture(record).cut([(whole, side // 9)])
    assert scales == [1, 4]


def test_scaled_decoding_changes_little(photos, scales):
    rng = np.random.default_rng(0)
    apart = []
    for photo in photos:
        record = encoded(Image.fromarray(photo), quality=90)
        full = decode(record)
        for size in (24, 48, 96):
            box = random_box(*full.shape[:2], rng)
            (cut,) = Picture(record).cut([(box, size)])
            left, top, right, bottom = box
            wanted = Image.fromarray(full[top:bottom, left:right]).resize(
                (size, size), Image.Resampling.BICUBIC
            )
            apart.append(np.abs(cut.astype(int) - np.asarray(wanted)).mean())
    assert np.mean(apart) < 1
    assert np.max(apart) < 2.5
    assert {2, 4} <= set(scales)


def test_pixels_are_cut_as_they_are(photos):
    picture = Picture(Record("x", photos[0]))
    assert picture.pixels() is photos[0]
    box = (3, 4, 103, 204)
    (cut,) = picture.cut([(box, 16)])
    assert np.array_equal(cut, resize(photos[0], box, 16))


def test_batches_are_uint8_and_small_images_are_refused(tmp_path):
    for name, side in {"small": 20, "large": 40}.items():
        image = Image.new("RGB", (side, 64), (side, 0, 0))
        (tmp_path / f"{name}.jpg").write_bytes(encoded(image).data)
    source = open_source(f"folder:{tmp_path}")
    options = DataOptions.of(image_size=32, batch_size=8, view_size=16)
    batch = Pipeline(source, options).batch(0)
    assert batch["image"].dtype == batch["view"].dtype == np.uint8
    assert (batch["broken"] < 0).all()
    options = DataOptions.of(image_size=32, batch_size=8, min_side=30)
    batch = Pipeline(source, options).batch(0)
    assert (batch["broken"] >= 0).sum() == 4
    assert (np.abs(batch["image"][..., 0].astype(int) - 40) < 4).all()
