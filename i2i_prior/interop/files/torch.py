"""Reader of torch.save's files without torch; executes nothing in them.

There are two formats. Since torch 1.6 a zip with `data.pkl` and a file for
each storage in `data/`; before, pickles in a row (magic number, protocol,
machine, the object, keys of the storages), then the storages with their
lengths.
"""

import functools
import io
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.interop.files import state_dict_keys
from i2i_prior.interop.files.lazy_tensor import (
    BFLOAT16,
    LazyTensor,
    damaged_file,
    file_size,
    one_line,
    read_bytes,
)
from i2i_prior.interop.files.unpickler import Storage, TorchTensor, Unpickler

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MAX_PICKLE = 2**25  # bytes; a tensor takes about 200
_MAX_DEFLATE = 1032  # deflate cannot make bytes smaller than 1 in so many
_LOCAL_HEADER = 30  # bytes of a zip entry's header without its names

_damaged = functools.partial(damaged_file, "torch")

# (storage, first byte in it, bytes) -> (bytes,) uint8
Reader = Callable[[Storage, int, int], np.ndarray]


def read(path: Path, weights: str) -> tuple[dict[str, LazyTensor], str]:
    """Opens the weights in a file of torch.save, of either format.

    `weights` is "ema" or "raw"; see `state_dict_keys.find_state_dict`. Returns
    key -> tensor, and the path of the dict in the file that held them.
    UserError where the file is missing, damaged, no torch file, holds no
    tensors, or names an object that has no place in a state dict.
    """
    size, archive = file_size(path), None
    start = read_bytes(path, 0, min(size, 4)).tobytes()
    if start == b"PK\x03\x04":
        archive = _Archive(path, size)
        root, big_endian, reader = archive.load()
    elif start[:1] == b"\x80":  # a pickle of protocol 2 or later
        root, big_endian, reader = _load_legacy(path, size)
    else:
        raise _damaged(path, "torch.save wrote no such file")
    tensors, wrapper = state_dict_keys.find_state_dict(root, weights)
    if archive and archive.script:
        tensors, wrapper = state_dict_keys.script_state_dict(root), ""
    if not tensors:
        names = root if isinstance(root, dict) else ()
        raise UserError(
            f"{path} holds no tensors where a state dict keeps them"
            + (f" (only {one_line(', '.join(names))})" if names else "")
            + "; save the state_dict() of the model alone"
        )
    return {
        key: _lazy(tensor, big_endian, reader)
        for key, tensor in tensors.items()
    }, wrapper


def _lazy(tensor: TorchTensor, big_endian: bool, reader: Reader) -> LazyTensor:
    def read() -> np.ndarray:
        itemsize = tensor.dtype.itemsize
        start = tensor.storage.start + tensor.offset * itemsize
        raw = reader(tensor.storage, start, tensor.span * itemsize)
        if big_endian:
            brain = tensor.dtype == BFLOAT16
            words = np.dtype(np.uint16) if brain else tensor.dtype
            raw = raw.view(words).byteswap().view(np.uint8)
        numbers = raw.view(tensor.dtype)
        if numbers.size == 0:
            return np.zeros(tensor.shape, tensor.dtype)
        axes = zip(tensor.shape, tensor.strides, strict=True)
        # An axis of 1 takes no step; any stride may be written there.
        steps = [stride * itemsize if n > 1 else 0 for n, stride in axes]
        strided = np.lib.stride_tricks.as_strided
        array = strided(numbers, tensor.shape, steps)
        # A thin slice does not keep the whole storage in memory.
        return array.copy() if 2 * array.size < numbers.size else array

    return LazyTensor(tensor.shape, read, tensor.dtype.name)


class _Archive:
    """File in the zip format."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size
        try:
            with zipfile.ZipFile(path) as file:
                entries = file.infolist()
        except _ZIP_ERRORS as error:
            raise self._damaged("its zip is incomplete") from error
        self._entries = {entry.filename: entry for entry in entries}
        if sum(entry.compress_size for entry in entries) > size:
            raise self._damaged("its entries claim more than its size")
        roots = [
            name.removesuffix("data.pkl")
            for name in self._entries
            if name.endswith("/data.pkl") and name.count("/") == 1
        ]
        if len(roots) != 1:
            raise UserError(
                f"{path} is a zip, but no file that torch.save wrote (it has "
                "no data.pkl)"
            )
        self._root = roots[0]
        self.script = f"{self._root}constants.pkl" in self._entries

    def load(self) -> tuple[Any, bool, Reader]:
        """Returns the pickled object, True if big-endian, and a reader."""
        text = self._content(f"{self._root}data.pkl")
        order = b"little"
        if f"{self._root}byteorder" in self._entries:
            order = self._content(f"{self._root}byteorder")
        unpickler = Unpickler(self._path, script=self.script)
        root = unpickler.load(io.BytesIO(text))
        starts = {
            key: self._start(storage)
            for key, storage in unpickler.storages.items()
        }

        def reader(storage: Storage, start: int, count: int) -> np.ndarray:
            begin = starts[storage.key]
            if begin is not None:
                return read_bytes(self._path, begin + start, count)
            whole = self._content(
                f"{self._root}data/{storage.key}", storage.root_nbytes
            )
            return np.frombuffer(whole, np.uint8)[start : start + count]

        return root, order == b"big", reader

    def _start(self, storage: Storage) -> int | None:
        """Returns the first byte of a storage in the file, None if deflated."""
        name = f"{self._root}data/{storage.key}"
        entry = self._entry(name)
        if entry.file_size < storage.root_nbytes:
            raise self._damaged(f"{one_line(name)} is shorter than its tensors")
        if entry.compress_type == zipfile.ZIP_DEFLATED:
            return None
        at = entry.header_offset
        if not 0 <= at <= self._size - _LOCAL_HEADER:
            raise self._damaged(f"{one_line(name)} is outside of it")
        header = read_bytes(self._path, at, _LOCAL_HEADER)
        names = header[26:30].view("<u2")
        start = at + _LOCAL_HEADER + int(names[0]) + int(names[1])
        if (
            header[:4].tobytes() != b"PK\x03\x04"
            or start + storage.root_nbytes > self._size
        ):
            raise self._damaged(f"{one_line(name)} is outside of it")
        return start

    def _entry(self, name: str) -> zipfile.ZipInfo:
        entry = self._entries.get(name)
        if entry is None:
            raise self._damaged(f"it lacks {one_line(name)}")
        stored = entry.compress_type == zipfile.ZIP_STORED
        deflated = entry.compress_type == zipfile.ZIP_DEFLATED
        expansion = _MAX_DEFLATE if deflated else 1
        if (
            not (stored or deflated)
            or entry.flag_bits & 1  # encrypted
            or entry.file_size > expansion * entry.compress_size
        ):
            raise self._damaged(f"{one_line(name)} is not what it claims")
        return entry

    def _content(self, name: str, count: int | None = None) -> bytes:
        """Reads the first `count` bytes of an entry, all if None."""
        entry = self._entry(name)
        if count is None:
            count = entry.file_size
            if count > _MAX_PICKLE:
                raise self._damaged(f"{one_line(name)} is too long for its use")
        try:
            with zipfile.ZipFile(self._path) as file, file.open(entry) as part:
                content = part.read(count)
        except _ZIP_ERRORS as error:
            raise self._damaged(f"{one_line(name)} cannot be read") from error
        if len(content) != count:
            raise self._damaged(f"{one_line(name)} is shorter than it claims")
        return content

    def _damaged(self, reason: str) -> UserError:
        return _damaged(self._path, reason)


def _load_legacy(path: Path, size: int) -> tuple[Any, bool, Reader]:
    """Reads the format before torch 1.6; returns as `_Archive.load`."""
    try:
        with path.open("rb") as file:
            bounded: Any = _Bounded(file, min(size, _MAX_PICKLE))
            first = Unpickler(path)
            if first.load(bounded) != _MAGIC:
                raise _damaged(path, "torch.save wrote no such file")
            if first.load(bounded) != _PROTOCOL:
                raise _damaged(path, "its protocol is unknown")
            system = first.load(bounded)
            unpickler = Unpickler(path)
            root = unpickler.load(bounded)
            keys = first.load(bounded)
            at = file.tell()
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from error
    big_endian = (
        isinstance(system, dict) and system.get("little_endian") is False
    )
    if (
        not isinstance(keys, list)
        or not all(type(key) is str for key in keys)
        or sorted(keys) != sorted(unpickler.storages)
    ):
        raise _damaged(path, "its storages are not those of its tensors")
    starts = {}
    for key in keys:
        storage = unpickler.storages[key]
        count = storage.root_nbytes // storage.dtype.itemsize
        if at + 8 + storage.root_nbytes > size:
            raise _damaged(path, "it ends within its tensors")
        if int(read_bytes(path, at, 8).view("<i8")[0]) != count:
            raise _damaged(path, "a storage is not as long as it claims")
        starts[key] = at + 8
        at += 8 + storage.root_nbytes

    def reader(storage: Storage, start: int, count: int) -> np.ndarray:
        return read_bytes(path, starts[storage.key] + start, count)

    return root, big_endian, reader


class _Bounded:
    """File for `pickletools` that refuses lengths beyond its own end."""

    def __init__(self, file: IO[bytes], left: int) -> None:
        self._file = file
        self._left = left

    def read(self, count: int) -> bytes:
        if count > self._left:
            raise EOFError
        self._left -= count
        return self._file.read(count)

    def readline(self) -> bytes:
        line = self._file.readline(self._left)
        self._left -= len(line)
        return line


_ZIP_ERRORS = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, OSError),
    *(EOFError, OverflowError, RuntimeError, ValueError),
)
