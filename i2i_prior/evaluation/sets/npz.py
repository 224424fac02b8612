"""Arrays in .npz files of others, no larger in memory than in the file.

A header may claim any shape, and NumPy sets that much memory aside before it
looks whether the numbers are there.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable
from typing import IO

import numpy as np

_LARGEST = 1 << 30  # bytes; statistics of 2048 and 2023 numbers are 66 MB
# What reading a damaged file raises.
ERRORS = (
    *(OSError, ValueError, KeyError, EOFError, AttributeError, TypeError),
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, OverflowError),
)


def read_arrays(
    path: str | os.PathLike[str], wanted: Callable[[str], bool]
) -> dict[str, np.ndarray]:
    """Those arrays of an .npz whose names are wanted.

    Raises:
        ERRORS: the file is damaged, holds objects, or more than 1 GiB.
    """
    found = {}
    left = _LARGEST
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name == info.filename or not wanted(name):
                continue
            left -= info.file_size
            if left < 0:
                raise ValueError("it is too large")
            with archive.open(info) as member:
                array_header(member, info.file_size)
            with archive.open(info) as member:
                found[name] = np.lib.format.read_array(
                    member, allow_pickle=False
                )
    return found


def array_header(
    file: IO[bytes], size: int
) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns come first, and type of an .npy.

    Args:
        file: at its start; at the first number afterwards.
        size: bytes of it altogether.

    Raises:
        ValueError: it is none, or the numbers are more or fewer than the
            shape tells.
    """
    version = np.lib.format.read_magic(file)
    reader = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if reader is None:
        raise ValueError(f"array format {version}")
    shape, fortran, dtype = reader(file)
    claimed = math.prod(shape) * dtype.itemsize
    there = size - file.tell()
    if not dtype.hasobject and (min(shape, default=0) < 0 or claimed != there):
        raise ValueError(
            f"{shape} of {dtype} are {claimed} bytes, and there are {there}"
        )
    return shape, fortran, dtype
