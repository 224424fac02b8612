"""A tensor that lies in a file, and a file that appears only when whole.

Sizes that a file claims are believed only after they were held against the
size of the file itself; nothing is allocated before that.
"""

from __future__ import annotations

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

Shape = tuple[int, ...]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_MAX_RANK = 64  # of a numpy array
_MAX_BYTES = 2**63  # numpy's own limit, also of arrays with stride 0


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
      shape: of the tensor.
      dtype: as numpy (and ml_dtypes) call it, `float32` or `bfloat16`.
      read: reads it: an array of this shape and dtype.
    """

    shape: Shape
    dtype: str
    read: Callable[[], np.ndarray]


def shown(text: Any, longest: int = 80) -> str:
    """Text out of a file, for a message: one line of bounded length."""
    plain = str(text)[: longest + 1].encode("unicode_escape").decode("ascii")
    return plain if len(plain) <= longest else plain[:longest] + "..."


def fits_numpy(shape: Shape, itemsize: int) -> bool:
    """Whether numpy can hold an array of this shape at all."""
    if len(shape) > _MAX_RANK or any(size >= _MAX_BYTES for size in shape):
        return False
    return math.prod(max(size, 1) for size in shape) * itemsize < _MAX_BYTES


def is_natural(*values: Any) -> bool:
    """Whether all are integers (bool is none) from 0 on."""
    return all(type(value) is int and value >= 0 for value in values)


def file_size(path: Path) -> int:
    """Bytes of a regular file, or of the one that a link leads to.

    Raises:
      UserError: where there is none, or it is empty.
    """
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
    """Reads a stretch of a file into a fresh (count,) uint8 array.

    Raises:
      UserError: where the file ends before or cannot be read.
    """
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
def written_beside(path: Path) -> Iterator[IO[bytes]]:
    """Opens `.NAME.PID` for writing; it takes its name when all went well.

    Raises:
      UserError: where the place cannot be written. Whatever is raised, the
        file of that name is as before and nothing lies beside it.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            yield file
        os.replace(beside, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(f"cannot write {path} ({error})") from error
        raise
