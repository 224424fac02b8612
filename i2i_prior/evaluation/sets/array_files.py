"""Checked reading of arrays from files of others: .npz, and pickles.

An .npz takes no more memory than it has bytes: a header may claim any shape,
and NumPy allocates that much memory before it reads the numbers. Of a pickle,
the format of EDM2's reference statistics, nothing is executed: no name in it
is imported, and only arrays, numbers, texts and dicts are built.
"""

import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.interop.files.pickle_machine import Inert, run

_LARGEST = 1 << 30  # bytes; statistics of 2048 and 2023 numbers are 66 MB
_DEEPEST = 3  # dicts in dicts; shared ones deeper could be endless work
_KINDS = "biufc"
# Errors of reading a damaged file.
ERRORS = (
    *(OSError, ValueError, KeyError, EOFError, AttributeError, TypeError),
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, OverflowError),
)
# Each under the names of NumPy 1 and NumPy 2.
_NAMES = {
    f"numpy.{core}.{name}"
    for core in ("core", "_core")
    for name in (
        *("multiarray._reconstruct", "multiarray.scalar"),
        "numeric._frombuffer",
    )
} | {"numpy.ndarray", "numpy.dtype", "_codecs.encode"}


def read_arrays(
    path: str | os.PathLike[str], select: Callable[[str], bool]
) -> dict[str, np.ndarray]:
    """Reads the arrays of an .npz with selected names.

    Raises ERRORS where it is damaged, holds objects, or more than 1 GiB.
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
    """Shape, column-major order and dtype of an .npy of `size` bytes.

    The file stands at its start, and at the first number afterwards.
    ValueError where it is no .npy, or has more or fewer numbers than its shape
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


class _Call(Inert):
    """Recorded call, which is not made."""

    def __init__(self, name: str, arguments: tuple) -> None:
        super().__init__(name)
        self.arguments = arguments


def read_pickle(path: Path) -> Any:
    """Reads the value of a pickle.

    UserError where it cannot be read, is too large, is damaged, or names
    anything that is not an array.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError("too large for statistics")
        with path.open("rb") as file:
            found = run(file, find=_find, call=_call, persistent=_refuse)
        return _built(found)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}).") from error
    except (
        *(ArithmeticError, AttributeError, EOFError, LookupError),
        *(RecursionError, TypeError, ValueError),
    ) as error:
        raise UserError(
            f"{path} is no pickle of arrays that can be read here ({error}); "
            "nothing of it was executed; give an .npz with mu and sigma."
        ) from error


def _find(module: Any, attribute: Any) -> str:
    name = f"{module}.{attribute}"
    if name not in _NAMES:
        raise ValueError(f"it names {name[:60]!r}")
    return name


def _call(function: Any, arguments: Any) -> _Call:
    if type(function) is not str or type(arguments) is not tuple:
        raise TypeError("a call without a function")
    return _Call(function, arguments)


def _refuse(persistent: Any) -> Any:
    raise ValueError("it is in several parts")


def _built(value: Any, depth: int = 0) -> Any:
    """Value with arrays in place of recorded calls."""
    if isinstance(value, _Call):
        return _array(value)
    if isinstance(value, dict) and depth < _DEEPEST:
        return {key: _built(one, depth + 1) for key, one in value.items()}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise ValueError("it holds other things than arrays, numbers and texts")


def _array(call: _Call) -> Any:
    match call.name.rpartition(".")[2], call.arguments, call.state:
        case "_reconstruct", _, (_, shape, dtype, bool(fortran), data):
            order = "F" if fortran else "C"
        case "_frombuffer", (data, dtype, shape, "C" | "F" as order), _:
            pass
        case "scalar", (dtype, data), _:
            return _filled(data, dtype, (), "C")[()]
        case name, _, _:
            raise ValueError(f"it holds a {name} that is no array")
    return _filled(data, dtype, shape, order)


def _filled(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if isinstance(data, _Call) and data.name == "_codecs.encode":
        text, encoding = data.arguments
        if encoding != "latin1":
            raise ValueError(f"bytes in {encoding!r}")
        data = text.encode("latin1")  # as protocol 2 writes bytes
    kind = _dtype(dtype)
    array = np.frombuffer(bytes(data), kind).reshape(shape, order=order)
    return array.astype(kind.newbyteorder("="))


def _dtype(call: Any) -> np.dtype:
    if not isinstance(call, _Call) or call.name != "numpy.dtype":
        raise ValueError("an array without a type")
    kind = np.dtype(str(call.arguments[0]))
    if kind.kind not in _KINDS:
        raise ValueError(f"an array of {kind}")
    return kind.newbyteorder(call.state[1]) if call.state else kind
