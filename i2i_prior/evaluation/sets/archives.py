"""Sources of images in single files: .zip archives, and .npz of samples.

An .npz holds `arr_0`, uint8 (N, H, W, 3), as ADM's samplers write it. A file
of 50,000 images does not fit in memory, so images are read one by one.
"""

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
from i2i_prior.data.sources.names import EXTENSIONS, is_image_name
from i2i_prior.errors import UserError
from i2i_prior.evaluation.sets.array_files import ERRORS, array_header

ARRAY = "arr_0"
_LOCAL_HEADER = 30  # bytes before a member's name, in the zip format


class ZipSource:
    """Images in a zip archive, sorted by name.

    UserError where it cannot be read, or holds no image.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self.names = sorted(filter(is_image_name, archive.namelist()))
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(
                f"archive {path} cannot be read ({error}); copy it again."
            ) from error
        if not self.names:
            raise UserError(
                f"archive {path} holds no image: its members should end in "
                f"{', '.join(EXTENSIONS)}."
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Record:
        name = self.names[index]
        try:
            # Opened anew: one that is open serves one thread at a time.
            with zipfile.ZipFile(self._path) as archive:
                return Record(name, archive.read(name))
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise OSError(5, str(error)) from error

    def fingerprint(self) -> str:
        """Hash of the names, see `Source`."""
        text = "\n".join(self.names).encode("utf-8", "surrogateescape")
        return hashlib.sha256(text).hexdigest()[:16]


class SampleFile:
    """Images of an .npz in their order, readable in any thread.

    Grey images, (N, H, W) or (N, H, W, 1), become RGB, and transparent ones,
    (N, H, W, 4), are laid over white, as other sources do it. A compressed
    file is unpacked into the folder for temporary files. UserError where it is
    no such file, holds no image, or numbers that are not uint8, for which black
    and white are not defined.
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
                    raise self._float_error(member, dtype)
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
        """Hash of the shape, see `Source`."""
        text = repr(("npz", self._shape)).encode()
        return hashlib.sha256(text).hexdigest()[:16]

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Turns errors of a damaged file into a UserError."""
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

    def _float_error(self, member: IO[bytes], dtype: np.dtype) -> UserError:
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
            f"{ARRAY} of {self._path} is {dtype}, and its black and white are "
            "not known; convert it to uint8, by round(127.5 x + 127.5) from "
            "[-1, 1]."
        )


def _start(file: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Offset of the bytes of a member that is not compressed."""
    file.seek(info.header_offset)
    name, extra = struct.unpack("<26xHH", file.read(_LOCAL_HEADER))
    return info.header_offset + _LOCAL_HEADER + name + extra


def _rgb(image: np.ndarray) -> np.ndarray:
    """Image (H, W[, 1, 3 or 4]) as (H, W, 3)."""
    if image.ndim == 2:
        image = image[..., None]
    if image.shape[2] == 4:
        alpha = image[..., 3:].astype(np.float32) / 255
        colour = image[..., :3].astype(np.float32)
        image = np.rint(255 + (colour - 255) * alpha).astype(np.uint8)
    return np.broadcast_to(image, (*image.shape[:2], 3))
