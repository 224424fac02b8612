"""Folders, archives and sample files as images, and what is refused."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from i2i_prior.data.crops import center_crop
from i2i_prior.errors import UserError
from i2i_prior.evaluation.sets.image_sets import open_images

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)


def png(pixels: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "images"
    place.mkdir()
    for number, pixels in enumerate(PIXELS):
        (place / f"{number}.png").write_bytes(png(pixels))
    return place


def read(place, **options) -> np.ndarray:
    return np.concatenate(list(open_images(place, **options).batches()))


def test_every_kind_of_place_holds_the_same_images(folder, tmp_path):
    files = sorted(folder.iterdir())
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for file in files:
            tar.add(file, file.name)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in reversed(files):
            archive.write(file, f"deep/{file.name}")
        archive.writestr("notes.txt", "none")
    np.savez(tmp_path / "a.npz", arr_0=PIXELS)
    np.savez_compressed(tmp_path / "b.npz", labels=[1], arr_0=PIXELS)
    for place in (
        folder,
        f"folder:{folder}",
        *(tmp_path / name for name in ("a.tar", "a.zip", "a.npz", "b.npz")),
    ):
        assert np.array_equal(read(place), PIXELS), place
        images = open_images(place)
        assert images.shape() == (8, 8)
        list(images.batches())
        assert np.array_equal(images.image(4), PIXELS[4])


def test_part_of_a_set_is_spread_over_it(folder):
    assert np.array_equal(read(folder, num=3), PIXELS[::2])
    share = open_images(folder).share(1, 2)
    assert np.array_equal(np.concatenate(list(share.batches())), PIXELS[1::2])
    with pytest.raises(UserError, match=r"--num is 7, but .* has 6 images"):
        open_images(folder, num=7)


def test_grey_and_transparent_images_become_rgb(tmp_path):
    grey, clear = PIXELS[0, ..., 0], np.full((8, 8, 4), 40, np.uint8)
    clear[..., 3] = [0, 255, 128, 64, 0, 255, 1, 254]
    for name, pixels in (("0", grey), ("1", clear)):
        (tmp_path / f"{name}.png").write_bytes(png(pixels))
    found = read(tmp_path)
    assert np.array_equal(found[0], np.repeat(grey[..., None], 3, -1))
    np.savez(tmp_path / "grey.npz", arr_0=grey[None])
    np.savez(tmp_path / "clear.npz", arr_0=clear[None])
    assert np.array_equal(read(tmp_path / "grey.npz")[0], found[0])
    from_samples = read(tmp_path / "clear.npz")[0].astype(int)
    assert np.abs(from_samples - found[1]).max() <= 1


def test_mixed_sizes_need_a_size(folder):
    wide = np.random.default_rng(1).integers(0, 256, (12, 20, 3), np.uint8)
    (folder / "5.png").write_bytes(png(wide))
    with pytest.raises(UserError, match="sizes, as 8 x 8 and 20 x 12; give"):
        next(open_images(folder).batches())
    found = read(folder, size=8)
    assert np.array_equal(found[:5], PIXELS[:5])
    assert np.array_equal(found[5], center_crop(wide, 8))


def test_broken_images_are_named_and_counted(folder):
    whole = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(whole[:-60])
    (folder / "4.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"2 of 6 images of .* being 1\.png"):
        read(folder)
    images = open_images(folder, skip_broken=True)
    found = np.concatenate(list(images.batches()))
    assert np.array_equal(found, PIXELS[[0, 2, 3, 5]])
    assert [name[:5] for name in images.broken] == ["1.png", "4.png"]
    assert images.used == [0, 2, 3, 5]
    assert np.array_equal(images.image(2), PIXELS[3])


def test_a_set_without_a_readable_image_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="1 of 1 images"):
        read(tmp_path, skip_broken=True)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.full((2, 4, 4, 3), np.nan, np.float32), "96 numbers that are NaN"),
        (
            np.zeros((2, 4, 4, 3)),
            "float64, and its black and white are not known",
        ),
        (np.zeros((2, 3, 8, 8), np.uint8), r"of shape \(2, 3, 8, 8\); images"),
        (np.zeros((2, 4, 4, 3), np.int32), "images are uint8"),
        (np.zeros((0, 4, 4, 3), np.uint8), "holds no image"),
        (np.array([{}]), "images are uint8|not a readable"),
    ],
)
def test_sample_files_that_are_none(tmp_path, array, said):
    np.savez(tmp_path / "a.npz", arr_0=array)
    with pytest.raises(UserError, match=said):
        open_images(tmp_path / "a.npz")


def test_places_that_are_none(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK no zip")
    (tmp_path / "a.zip").write_bytes(b"PK no zip")
    (tmp_path / "a.txt").write_text("none")
    np.savez(tmp_path / "b.npz", images=PIXELS)
    (tmp_path / "empty").mkdir()
    for place, said in (
        ("a.npz", "not a readable .npz"),
        ("a.zip", "cannot be read"),
        ("a.txt", "is no set of images"),
        ("b.npz", "has no arr_0"),
        ("empty", "holds no image"),
        ("gone", "there is nothing at"),
    ):
        with pytest.raises(UserError, match=said):
            open_images(tmp_path / place)


def test_a_cut_sample_file_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", arr_0=PIXELS)
    images = open_images(tmp_path / "a.npz")
    os.truncate(tmp_path / "a.npz", 900)
    with pytest.raises(UserError, match=r"3 of 6 .*is cut short"):
        list(images.batches())


def test_the_state_follows_every_change(folder, tmp_path):
    states = [open_images(folder).state()]
    assert open_images(folder).state() == states[0]
    file = folder / "2.png"
    status = file.stat()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    # A tool may set the time back; the change of the entry remains.
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    states.append(open_images(folder).state())
    states.append(open_images(folder, num=5).state())
    states.append(open_images(folder, size=4).state())
    states.append(open_images("builtin:photos", num=2).state())
    assert len(set(states)) == len(states)
