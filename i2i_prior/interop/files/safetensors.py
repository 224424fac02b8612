"""safetensors, read tensor by tensor and written the same way.

The format (github.com/huggingface/safetensors): 8 bytes with the length of a
JSON header, the header (name -> dtype, shape, data_offsets), then the numbers
without a gap. The library maps the file or wants all arrays at once; here one
tensor is in memory at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.interop.files.lazy_tensor import (
    BFLOAT16,
    Stored,
    file_size,
    fits_numpy,
    is_natural,
    read_bytes,
    shown,
    written_beside,
)

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": BFLOAT16,
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "C64": np.dtype(np.complex64),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MAX_HEADER = 100_000_000  # bytes; the limit of the library, too


def read(path: Path) -> dict[str, Stored]:
    """The tensors of a .safetensors file.

    Args:
      path: the file.

    Returns:
      name -> tensor, in the order in which they lie in the file.

    Raises:
      UserError: where it is missing, cut short, or its header does not
        describe exactly the bytes that follow.
    """
    size = file_size(path)
    if size < 8:
        raise _damaged(path, "it is shorter than 8 bytes")
    length = int(read_bytes(path, 0, 8).view("<u8")[0])
    if length > min(size - 8, _MAX_HEADER):
        raise _damaged(path, f"its header claims {length} bytes")
    try:
        header = json.loads(
            read_bytes(path, 8, length).tobytes(), object_pairs_hook=_unique
        )
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its header is not JSON") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    places = {
        name: _place(path, name, entry, size - 8 - length)
        for name, entry in header.items()
    }
    end = 0
    for name in sorted(places, key=lambda name: places[name][2:]):
        if places[name][2] != end:
            raise _damaged(
                path, f"tensor {shown(name)} overlaps or leaves a gap"
            )
        end = places[name][3]
    if end != size - 8 - length:
        raise _damaged(path, "its header leaves bytes over")
    return {
        name: _stored(path, shape, dtype, 8 + length + start)
        for name, (shape, dtype, start, _) in places.items()
    }


def write(
    path: Path, tensors: Mapping[str, Stored], metadata: dict[str, str] | None
) -> int:
    """Writes a .safetensors file: its header, then a tensor at a time.

    Args:
      path: the file.
      tensors: name -> tensor; `read` is called once, just before it is
        written, and is held against the shape and dtype it promised.
      metadata: for the header.

    Returns:
      bytes written.

    Raises:
      UserError: where the place cannot be written.
    """
    # Wide numbers first keeps every tensor aligned, as the library does.
    names = sorted(
        tensors, key=lambda name: -np.dtype(tensors[name].dtype).itemsize
    )
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name in names:
        tensor = tensors[name]
        dtype = np.dtype(tensor.dtype)
        start, end = end, end + math.prod(tensor.shape) * dtype.itemsize
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with written_beside(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            array = np.asarray(tensors[name].read())
            if (array.shape, array.dtype.name) != (
                tensors[name].shape,
                tensors[name].dtype,
            ):
                raise ValueError(
                    f"{name} is {array.dtype.name} {array.shape}, not "
                    f"{tensors[name].dtype} {tensors[name].shape}"
                )
            flat = np.ascontiguousarray(array).reshape(-1)
            file.write(flat.view(np.uint8).data)
    return 8 + len(text) + end


def _place(
    path: Path, name: str, entry: Any, room: int
) -> tuple[tuple[int, ...], np.dtype, int, int]:
    """Shape, dtype, first and last + 1 byte of an entry of the header."""
    try:
        shape = tuple(entry["shape"])
        start, end = entry["data_offsets"]
        kind = entry["dtype"]
        if not isinstance(kind, str):
            raise TypeError("no dtype")
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"its entry {shown(name)} is malformed") from error
    if kind not in _DTYPES:
        raise UserError(
            f"{path} holds {shown(name)} as {shown(kind)}, which this reader "
            "does not know; convert it to F32, F16 or BF16"
        )
    dtype = _DTYPES[kind]
    if (
        not is_natural(start, end, *shape)
        or not start <= end <= room
        or not fits_numpy(shape, dtype.itemsize)
        or math.prod(shape) * dtype.itemsize != end - start
    ):
        raise _damaged(path, f"tensor {shown(name)} does not fit in it")
    return shape, dtype, start, end


def _stored(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, offset: int
) -> Stored:
    def read() -> np.ndarray:
        count = math.prod(shape) * dtype.itemsize
        return read_bytes(path, offset, count).view(dtype).reshape(shape)

    return Stored(shape, dtype.name, read)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name comes twice")
    return result


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} is not a readable safetensors file ({reason}); fetch or "
        "copy it again"
    )
