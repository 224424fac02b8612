"""Reader and writer of safetensors files, a tensor at a time.

The library checks a header: it describes exactly the bytes that follow. The
tensors are read and written here, since the library maps the whole file, has
no float8 for numpy, and writes only arrays that are all in memory.
"""

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from i2i_prior.errors import UserError
from i2i_prior.interop.files.lazy_tensor import (
    BFLOAT16,
    LazyTensor,
    damaged_file,
    file_size,
    fits_numpy,
    one_line,
    open_atomic,
    read_bytes,
)

_DTYPES = {
    f"{letter}{8 * size}": np.dtype(f"{letter.lower()}{size}")
    for letter, sizes in (("F", "248"), ("I", "1248"), ("U", "1248"))
    for size in map(int, sizes)
} | {
    "BF16": BFLOAT16,
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "C64": np.dtype(np.complex64),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_damaged = functools.partial(damaged_file, "safetensors")


def read(path: Path) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """Opens a .safetensors file; reads no tensor yet.

    Returns name -> tensor in the order of the file, and the header's metadata.
    UserError where the file is missing, damaged, or has an unknown dtype.
    """
    file_size(path)
    tensors: dict[str, LazyTensor] = {}
    try:
        with safe_open(str(path), framework="numpy") as file:
            # Without gaps, as the library has checked.
            offset = 8 + int(read_bytes(path, 0, 8).view("<u8")[0])
            for name in file.offset_keys():
                entry = file.get_slice(name)
                shape, kind = tuple(entry.get_shape()), entry.get_dtype()
                if kind not in _DTYPES:
                    raise UserError(
                        f"{path} holds {one_line(name)} as {kind}, which this "
                        "reader does not know; convert it to F32, F16 or BF16"
                    )
                dtype = _DTYPES[kind]
                if not fits_numpy(shape, dtype.itemsize):
                    raise _damaged(
                        path, f"{one_line(name)} is of too many axes"
                    )
                tensors[name] = _lazy(path, offset, shape, dtype)
                offset += math.prod(shape) * dtype.itemsize
            return tensors, file.metadata() or {}
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise _damaged(path, one_line(reason)) from error
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from error


def write(
    path: Path,
    tensors: Mapping[str, LazyTensor],
    metadata: dict[str, str] | None,
) -> int:
    """Writes a .safetensors file, a tensor at a time; returns its bytes.

    `read` of each tensor, by its name, is called once, just before it is
    written, and has to return the shape and dtype of the tensor. `metadata` is
    for the header. UserError where the file cannot be written.
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
    with open_atomic(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            array, tensor = np.asarray(tensors[name].read()), tensors[name]
            if (array.shape, array.dtype.name) != (tensor.shape, tensor.dtype):
                raise ValueError(
                    f"{name} is {array.dtype.name} {array.shape}, not "
                    f"{tensor.dtype} {tensor.shape}"
                )
            flat = np.ascontiguousarray(array).reshape(-1)
            file.write(flat.view(np.uint8).data)
    return 8 + len(text) + end


def _lazy(
    path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype
) -> LazyTensor:
    def read() -> np.ndarray:
        count = math.prod(shape) * dtype.itemsize
        return read_bytes(path, offset, count).view(dtype).reshape(shape)

    return LazyTensor(shape, read, dtype.name)
