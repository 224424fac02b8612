"""Checked reading of .npz files: no more memory than the file has bytes.

A header may claim any shape, and NumPy allocates that much memory before it
reads the numbers.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable
from typing import IO

import numpy as np

_LARGEST = 1 << 30  # bytes; statistics of 2048 and 2023 numbers are 66 MB
# Errors of reading a damaged file.
ERRORS = (
    *(OSError, ValueError, KeyError, EOFError, AttributeError, TypeError),
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, OverflowError),
)


def read_arrays(
    path: str | os.PathLike[str], select: Callable[[str], bool]
) -> dict[str, np.ndarray]:
    """Reads the arrays of an .npz with selected names.

    Raises:
        ERRORS: the file is damaged, holds objects, or more than 1 GiB.
    """
    found = {}
    left = _LARGEST
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name == info.filename or not select(name):
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
    """Shape, column-major order and dtype of an .npy.

    Args:
        file: at its start; at the first number afterwards.
        size: of the file, bytes.

    Raises:
        ValueError: it is no .npy, or has more or fewer numbers than its shape
            implies.
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
