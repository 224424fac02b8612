"""Images in an .npz: `arr_0`, uint8 (N, H, W, 3), as ADM's samplers write it.

A file of 50,000 images does not fit in memory, so each is read by itself.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np

from i2i_prior.data.record import Record
from i2i_prior.errors import UserError
from i2i_prior.evaluation.sets.npz import ERRORS, array_header

ARRAY = "arr_0"
_LOCAL_HEADER = 30  # bytes before a member's name, in the zip format


class SampleFile:
    """The images of an .npz, in their order; any thread may read any.

    Grey images, (N, H, W) or (N, H, W, 1), become RGB, and transparent ones,
    (N, H, W, 4), are laid over white, as other sources do it. A compressed
    file is unpacked into the folder for temporary files.

    Args:
        path: of the file.

    Raises:
        UserError: it is no such file, holds no image, or numbers that are
            not uint8, of which nobody says what black and white are.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        with self._readable(), zipfile.ZipFile(path) as archive:
            info = archive.getinfo(f"{ARRAY}.npy")
            with archive.open(info) as member:
                shape, fortran, dtype = array_header(member, info.file_size)
                if fortran and len(shape) > 1:
                    raise ValueError("columns come first in it")
                first = member.tell()
                if dtype.kind == "f":
                    raise self._floats(member, dtype)
            if info.compress_type == zipfile.ZIP_STORED:
                self._file: IO[bytes] = open(path, "rb")  # noqa: SIM115 (kept)
                first += _start(self._file, info)
            else:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 (kept)
                with archive.open(info) as member:
                    shutil.copyfileobj(member, self._file, 1 << 20)
                self._file.flush()
        fits = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3, 4))
        if dtype != np.uint8 or not fits:
            raise UserError(
                f"{ARRAY} of {path} is {dtype} of shape {shape}; images are "
                "uint8 (N, H, W, 3)."
            )
        if 0 in shape:
            raise UserError(f"{path} holds no image; draw some first.")
        self._shape, self._first = shape, first

    def __len__(self) -> int:
        return self._shape[0]

    def __getitem__(self, index: int) -> Record:
        shape = self._shape[1:]
        size = int(np.prod(shape))
        start = self._first + index * size
        data = os.pread(self._file.fileno(), size, start)
        if len(data) != size:
            raise OSError(5, "the file is cut short")
        pixels = np.frombuffer(data, np.uint8).reshape(shape)
        return Record(f"{ARRAY}[{index}]", _rgb(pixels))

    def fingerprint(self) -> str:
        """As every source."""
        text = repr(("npz", self._shape)).encode()
        return hashlib.sha256(text).hexdigest()[:16]

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except KeyError:
            raise UserError(
                f"{self._path} has no {ARRAY}; images are an array of that "
                "name, uint8 (N, H, W, 3)."
            ) from None
        except (*ERRORS, struct.error) as error:
            raise UserError(
                f"{self._path} is not a readable .npz ({error}); copy or "
                "write it again."
            ) from error

    def _floats(self, member: IO[bytes], dtype: np.dtype) -> UserError:
        bad = 0
        while data := member.read(1 << 20):
            whole = len(data) // dtype.itemsize * dtype.itemsize
            numbers = np.frombuffer(data[:whole], dtype)
            bad += int((~np.isfinite(numbers)).sum())
        if bad:
            return UserError(
                f"{ARRAY} of {self._path} has {bad} numbers that are NaN or "
                "infinite; find out where they come from and draw again."
            )
        return UserError(
            f"{ARRAY} of {self._path} is {dtype}, of which nobody says what "
            "black and white are; convert it to uint8, by "
            "round(127.5 x + 127.5) from [-1, 1]."
        )


def _start(file: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Where the bytes of a member that is not compressed begin."""
    file.seek(info.header_offset)
    name, extra = struct.unpack("<26xHH", file.read(_LOCAL_HEADER))
    return info.header_offset + _LOCAL_HEADER + name + extra


def _rgb(image: np.ndarray) -> np.ndarray:
    if image.ndim == 2:
        image = image[..., None]
    if image.shape[2] == 4:
        alpha = image[..., 3:].astype(np.float32) / 255
        colour = image[..., :3].astype(np.float32)
        image = np.rint(255 + (colour - 255) * alpha).astype(np.uint8)
    return np.broadcast_to(image, (*image.shape[:2], 3))
