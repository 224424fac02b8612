"""Decoding of every odd kind of image, whole and damaged."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from i2i_prior.data.decode_image import BrokenImage, decode
from i2i_prior.data.record import Record
from i2i_prior.data.sources.registry import open_source

NOISE = Image.fromarray(
    np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
)


def encoded(image: Image.Image, form: str = "PNG", **kwargs) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **kwargs)
    return file.getvalue()


def pixels_of(image: Image.Image, form: str = "PNG", **kwargs) -> np.ndarray:
    result = decode(Record("x", encoded(image, form, **kwargs)))
    assert result.dtype == np.uint8
    assert result.shape == (*image.size[::-1], 3)
    return result


def ramp(height: int = 24, width: int = 40) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    array = np.stack([x * 6, y * 10, (x + y) * 3], -1)
    return Image.fromarray(array.astype(np.uint8))


def png_header(width: int, height: int) -> bytes:
    """A PNG of so many black-and-white pixels that holds none of them."""
    return png(width, height, 1, 0, b"")


def png(width: int, height: int, bits: int, kind: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    size = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    parts = chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "WEBP", "JPEG"])
def test_formats(form):
    image = ramp()
    kwargs = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}
    result = pixels_of(image, form, **kwargs.get(form, {}))
    error = np.abs(result.astype(int) - np.asarray(image)).mean()
    assert error <= {"JPEG": 4, "GIF": 12}.get(form, 0)


def test_grey_and_black_and_white():
    grey = ramp().convert("L")
    result = pixels_of(grey)
    assert np.array_equal(result, np.asarray(grey)[..., None].repeat(3, -1))
    assert set(np.unique(pixels_of(ramp().convert("1")))) == {0, 255}


def test_palette():
    palette = ramp().convert("P", palette=Image.Palette.ADAPTIVE)
    assert np.array_equal(pixels_of(palette), palette.convert("RGB"))


def test_sixteen_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 257, 32768, 65278, 65535]], np.uint16)
    result = pixels_of(Image.fromarray(values))
    assert result[0, :, 0].tolist() == [0, 1, 128, 254, 255]
    assert np.array_equal(result[..., 0], result[..., 2])


def test_transparent_pixels_turn_white():
    array = np.zeros((1, 3, 4), np.uint8)
    array[0, :, 3] = [0, 128, 255]
    result = pixels_of(Image.fromarray(array))
    assert result[0, :, 0].tolist() == [255, 127, 0]
    grey = Image.fromarray(array).convert("LA")
    assert pixels_of(grey)[0, :, 0].tolist() == [255, 127, 0]


def test_transparency_by_key_turns_white():
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    result = pixels_of(palette, transparency=1)
    assert result[0].tolist() == [[10, 20, 30], [255, 255, 255]]
    rgb = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    result = pixels_of(rgb, transparency=(1, 2, 3))
    assert result[0].tolist() == [[255, 255, 255], [4, 5, 6]]


def test_cmyk_jpeg():
    ink = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    result = pixels_of(ink, "JPEG", quality=95)
    assert np.abs(result[8, 8].astype(int) - [0, 255, 255]).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation):
    upright = np.asarray(ramp())
    # What a camera stores so that the tag's instruction restores the scene.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored))
    result = decode(Record("x", encoded(image, exif=exif)))
    assert np.array_equal(result, upright)


@pytest.mark.parametrize("exif", [b"Exif\0\0junk" * 5, b"Exif\0\0II*\0\xff"])
def test_damaged_exif_does_no_harm(exif):
    assert pixels_of(ramp(), "JPEG", exif=exif).shape == (24, 40, 3)


def test_one_pixel():
    assert pixels_of(Image.new("RGB", (1, 1), (9, 8, 7))).tolist() == [
        [[9, 8, 7]]
    ]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP"])
def test_long_sides(form):
    long = 16_000 if form == "WEBP" else 30_000
    assert pixels_of(Image.new("RGB", (long, 3)), form).shape == (3, long, 3)


def test_sixteen_bit_colour_keeps_its_high_byte():
    data = png(2, 1, 16, 2, bytes.fromhex("00 01ff 7f00 ff10 8000 0000 00ff"))
    result = decode(Record("x", data))
    assert result.tolist() == [[[0x01, 0x7F, 0xFF], [0x80, 0, 0]]]


def test_palette_with_transparency_in_its_entries():
    palette = Image.new("P", (3, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60, 0, 0, 0])
    palette.putdata([0, 1, 2])
    result = pixels_of(palette, transparency=bytes([255, 0, 128]))
    assert result[0].tolist() == [[10, 20, 30], [255] * 3, [127] * 3]


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(form):
    frames = [Image.new("RGB", (9, 7), (200 - 90 * i, 0, 0)) for i in range(3)]
    kwargs = {"lossless": True} if form == "WEBP" else {}
    data = encoded(
        frames[0], form, save_all=True, append_images=frames[1:], **kwargs
    )
    result = decode(Record("x", data))
    assert result.shape == (7, 9, 3)
    assert (result == [200, 0, 0]).all()


def test_the_first_picture_of_an_mpo():
    frames = [Image.new("RGB", (16, 8), (c, c, c)) for c in (60, 200)]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    result = decode(Record("x", data))
    assert result.shape == (8, 16, 3)
    assert np.abs(result.astype(int) - 60).max() <= 2


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_colour_profiles_are_ignored(form):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    tagged = pixels_of(ramp(), form, icc_profile=profile)
    assert np.array_equal(tagged, pixels_of(ramp(), form))


def test_a_name_says_nothing(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(ramp(), "JPEG"))
    (tmp_path / "b.jpg").write_bytes(encoded(ramp(), "PNG"))
    source = open_source(f"folder:{tmp_path}")
    assert [decode(record).shape for record in source] == [(24, 40, 3)] * 2


def test_lossless_jpeg():
    data = bytes.fromhex(
        "ffd8ffc40017000101010100000000000000000000000004050208ffc3000b080008"
        "000801001100ffda0008010000060000e7fdef7bdef7618c6318c6586318c6319618"
        "c6318c6586318c6319618c6318c6586318c6319618c6318c60ffd9"
    )
    assert outcome(data) in ((8, 8, 3), "broken")


@pytest.mark.parametrize("marker", [0xC9, 0xCA, 0xC5, 0xC7, 0xCB])
def test_rare_kinds_of_jpeg_end_as_pixels_or_as_broken(marker):
    # Arithmetic, hierarchical ...: what is behind the header is not of them.
    for progressive in (False, True):
        data = encoded(ramp(), "JPEG", progressive=progressive)
        start = b"\xff\xc2" if progressive else b"\xff\xc0"
        data = data.replace(start, bytes([0xFF, marker]), 1)
        assert outcome(data) in ((24, 40, 3), "broken")


def test_a_jpeg_of_many_scans_is_refused():
    # 8 bytes a scan, each of which walks over all pixels.
    data = encoded(Image.new("L", (4000, 4000)), "JPEG", progressive=True)
    scan = data[data.rfind(b"\xff\xda") : -2]
    with pytest.raises(BrokenImage, match="more than 64 scans"):
        decode(Record("x", data[:-2] + scan * 1000 + data[-2:]))


def test_a_baseline_jpeg_may_not_have_many_scans_either():
    data = encoded(ramp(), "JPEG", subsampling=0)
    start = data.index(b"\xff\xda")
    # One component a scan: as many scans as one likes.
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    with pytest.raises(BrokenImage, match="more than 64 scans"):
        decode(Record("x", data[:start] + scan * 1000 + b"\xff\xd9"))


def test_an_mpo_does_not_say_how_many_scans_it_has():
    first, second = (Image.new("RGB", (64, 64), c) for c in ("red", "blue"))
    out = io.BytesIO()
    first.save(out, "MPO", save_all=True, append_images=[second])
    data = out.getvalue()
    assert decode(Record("x", data)).shape == (64, 64, 3)
    start = data.find(b"\xff\xda")
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    # What the header of a single scan would be, where the file ends.
    tail = b"\xff\xda\x00\x0c\x03" + bytes(9)
    with pytest.raises(BrokenImage, match="more than 64 scans"):
        decode(Record("x", data[:start] + scan * 1000 + tail))


def outcome(data: bytes) -> tuple[int, ...] | str:
    try:
        return decode(Record("x", data)).shape
    except BrokenImage:
        return "broken"


def test_pixels_come_back_as_they_are():
    pixels = np.asarray(ramp())
    assert decode(Record("x", pixels)) is pixels


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"no image at all", "no image of a known format"),
        (b"\xff\xd8\xff" + b"junk" * 99, "cannot be decoded|known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "known format"),
        (encoded(NOISE)[:3000], "truncated"),
        (encoded(NOISE)[:40], "cannot be decoded|known format"),
        (encoded(NOISE, "JPEG")[:-900], "truncated"),
        (encoded(NOISE, "JPEG")[:300], "cannot be decoded|truncated"),
        (encoded(NOISE, "WEBP")[:500], "cannot be decoded|known format"),
        (encoded(NOISE, "BMP")[:5000], "truncated"),
        (png_header(9, 9), "cannot be decoded"),
        (np.zeros((4, 4)), "uint8"),
        (np.zeros((4, 4, 4), np.uint8), "uint8"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
    ],
)
def test_damage_is_named(data, reason):
    with pytest.raises(BrokenImage, match=reason) as caught:
        decode(Record("x", data))
    assert caught.value.reason == str(caught.value)


def test_a_flipped_byte_in_a_png_is_noticed():
    data = bytearray(encoded(NOISE))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(BrokenImage):
        decode(Record("x", bytes(data)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [20_000, 60_000])
def test_a_huge_image_is_refused_from_its_header(side):
    with pytest.raises(BrokenImage, match="more than 100000000 pixels"):
        decode(Record("x", png_header(side, side)))


def test_max_pixels_is_a_limit_of_its_own():
    data = encoded(ramp())
    assert decode(Record("x", data), max_pixels=24 * 40).shape == (24, 40, 3)
    with pytest.raises(BrokenImage, match="more than 959 pixels"):
        decode(Record("x", data), max_pixels=24 * 40 - 1)


def test_pillow_does_not_warn_of_bombs():
    # 100 million and a few: above Pillow's warning, below its error.
    code = (
        "from i2i_prior.data.decode_image import BrokenImage, decode\n"
        "from i2i_prior.data.record import Record\n"
        f"data = {png_header(10_000, 10_001)!r}\n"
        "try:\n    decode(Record('x', data))\n"
        "except BrokenImage as broken:\n    print(broken.reason)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "more than" in done.stdout
    assert done.stderr == ""
