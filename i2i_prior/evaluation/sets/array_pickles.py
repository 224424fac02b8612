"""Reading of pickled NumPy arrays in dicts, without unpickling.

The format of EDM2's reference statistics. No name in the file is imported,
and nothing but arrays, numbers, texts and dicts is built.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.interop.files.pickle_machine import Inert, run

_LARGEST = 1 << 30  # bytes; two statistics of 2048 and 1024 numbers are 42 MB
_DEEPEST = 3  # dicts in dicts; shared ones deeper could be endless work
_KINDS = "biufc"
# Each under the names of NumPy 1 and NumPy 2.
_NAMES = {
    f"numpy.{core}.{name}"
    for core in ("core", "_core")
    for name in (
        *("multiarray._reconstruct", "multiarray.scalar"),
        "numeric._frombuffer",
    )
} | {"numpy.ndarray", "numpy.dtype", "_codecs.encode"}


class _Call(Inert):
    """Recorded call, which is not made."""

    def __init__(self, name: str, arguments: tuple) -> None:
        super().__init__(name)
        self.arguments = arguments


def read_pickle(path: Path) -> Any:
    """Reads the value of a pickle.

    Raises:
        UserError: it cannot be read, is too large, is damaged, or names
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
