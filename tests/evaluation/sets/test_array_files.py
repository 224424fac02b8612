"""Reading of .npz files in no more memory than their size."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.registry import pixel_extractor
from i2i_prior.evaluation.sets.array_files import ERRORS, read_arrays
from i2i_prior.evaluation.sets.image_sets import open_images
from i2i_prior.evaluation.sets.statistics_files import read_statistics


def member(shape: tuple[int, ...], descr: str, numbers: bytes = b"") -> bytes:
    """Content of an .npy with any shape in its header."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return file.getvalue() + numbers


def packed(path, **members: bytes):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        member((10**11,), "<f8"),
        member((2**40, 2**40), "<f8", bytes(800)),
        member((-1,), "<f8", bytes(8)),
        member((2,), "<f8", bytes(24)),
        member((1,), "|O", bytes(8)),
        b"no array",
        b"",
    ],
)
def test_what_is_not_there_is_not_read(tmp_path, content):
    path = packed(tmp_path / "a.npz", mu=content, other=member((9**9,), "<f8"))
    with pytest.raises(ERRORS):
        read_arrays(path, lambda name: name == "mu")
    assert read_arrays(path, lambda name: name == "nu") == {}
    with pytest.raises(UserError, match="not a readable statistics file"):
        read_statistics(path, pixel_extractor("colour_texture"))


def test_a_file_that_unpacks_to_a_gibibyte_is_not_read(tmp_path):
    """By what its directory says, of which a zip file gives no more."""
    path = packed(tmp_path / "a.npz", mu=member((1,), "<f8", bytes(8)))
    content = path.read_bytes()
    size = len(member((1,), "<f8", bytes(8))).to_bytes(4, "little")
    path.write_bytes(content.replace(size, (2**31).to_bytes(4, "little")))
    with pytest.raises(ValueError, match="too large"):
        read_arrays(path, lambda name: True)


def test_arrays_of_any_order_and_type(tmp_path):
    arrays = {
        "a": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "b": np.str_("text"),
        "c": np.zeros((0, 3), np.float32),
    }
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    found = read_arrays(tmp_path / "a.npz", lambda name: True)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("count", [10**12, -5, 3])
def test_images_that_are_not_there(tmp_path, count):
    content = member((count, 4, 4, 3), "|u1", bytes(4 * 48))
    path = packed(tmp_path / "a.npz", arr_0=content)
    with pytest.raises(UserError, match=r"is not a readable .npz \("):
        open_images(path)
