"""Tensors that are read when they are used, and safe access to their files.

Sizes that a file claims are checked against the size of the file before
anything is allocated.
"""

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.io import disk, files

Shape = tuple[int, ...]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_MAX_RANK = 64  # of a numpy array
_MAX_BYTES = 2**63  # numpy's own limit, also of arrays with stride 0


@dataclass(frozen=True)
class LazyTensor:
    """A tensor in a file, or one to be written."""

    shape: Shape
    read: Callable[[], np.ndarray]  # returns the array
    dtype: str = "float32"  # name in numpy and ml_dtypes, as bfloat16


def one_line(text: Any, longest: int = 80) -> str:
    """Escapes text of a file for a message: one line of bounded length."""
    plain = str(text)[: longest + 1].encode("unicode_escape").decode("ascii")
    return plain if len(plain) <= longest else plain[:longest] + "..."


def damaged_file(kind: str, path: Any, reason: str) -> UserError:
    """Error about a file that is not of its kind, "safetensors" or "torch"."""
    return UserError(
        f"{path} is not a readable {kind} file ({reason}); fetch or copy it "
        "again"
    )


def fits_numpy(shape: Shape, itemsize: int) -> bool:
    """Returns True if numpy can hold an array of this shape."""
    if len(shape) > _MAX_RANK or any(size >= _MAX_BYTES for size in shape):
        return False
    return math.prod(max(size, 1) for size in shape) * itemsize < _MAX_BYTES


def is_natural(*values: Any) -> bool:
    """Returns True if all values are integers >= 0; bool does not count."""
    return all(type(value) is int and value >= 0 for value in values)


def file_size(path: Path) -> int:
    """Returns the bytes of a regular file, or of a link's target; UserError if
    there is none, or it is empty."""
    # A pipe is none: opening it would wait. os.path never raises.
    if not os.path.isfile(path):
        raise UserError(f"no weight file {path}")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from error
    if size == 0:
        raise UserError(f"{path} is empty; fetch or copy it again")
    return size


def read_bytes(path: Path, offset: int, count: int) -> np.ndarray:
    """Reads `count` bytes of a file into a fresh (count,) uint8 array;
    UserError if the file ends before, or cannot be read."""
    array = np.empty(count, np.uint8)
    try:
        with path.open("rb") as file:
            file.seek(offset)
            done = file.readinto(array.data)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from error
    if done != count:
        raise UserError(f"{path} was cut short while it was read")
    return array


@contextlib.contextmanager
def open_atomic(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file for writing that appears only when it is complete.

    UserError where it cannot be written. On any exception, an older file of the
    name is unchanged.
    """
    with (
        disk.write_errors(path),
        files.atomic_path(path) as partial,
        partial.open("wb") as file,
    ):
        yield file
