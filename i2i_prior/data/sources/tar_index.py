"""What lies where in a tar archive: read once, then from the cache."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from i2i_prior.data import index_cache
from i2i_prior.data.sources import places
from i2i_prior.data.sources.names import Names, is_image_name
from i2i_prior.data.sources.sidecars import MAX_BYTES, SIDECARS
from i2i_prior.errors import UserError

# tarfile on hostile bytes: sizes beyond all memory, headers within headers.
_DAMAGE = (
    *(tarfile.TarError, OSError, EOFError, ValueError, ArithmeticError),
    *(MemoryError, RecursionError),
)
_MAX_HEADER = 1 << 20  # bytes
_ARRAYS = ("text", "ends", "offsets", "sizes", "starts")


class _Headers:
    """A file as tarfile sees it: no header may be larger than any real one.

    Without this a long name that claims gigabytes has them allocated.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)


@dataclass(frozen=True)
class TarIndex:
    """The images of one archive and what lies beside them.

    Attributes:
        names: of the members, in archive order.
        offsets, sizes: int64, of their bytes in the archive.
        starts: int64, the first member of each example, and the number of
            members last.
        note: what is wrong with the archive, or "".
    """

    names: Names
    offsets: np.ndarray
    sizes: np.ndarray
    starts: np.ndarray
    note: str


def index_of(path: str) -> TarIndex:
    """The index of the archive at a path or URL.

    Raises:
        UserError: it is no tar, or cut before the end of its first image.
    """
    try:
        size, stamp, mtime = places.stamp(path)
    except OSError as error:
        raise UserError(
            f"Archive {path} cannot be read ({error.strerror}): check that "
            "it is there and may be read."
        ) from error
    kept = index_cache.load("tar", path, stamp)
    if kept is not None and {*_ARRAYS, "note"} == set(kept):
        text, ends, offsets, sizes, starts = (kept[name] for name in _ARRAYS)
        note = kept["note"].tobytes().decode()
        return TarIndex(Names(text, ends), offsets, sizes, starts, note)
    index = _read(path, size)
    if index_cache.settled(mtime):
        own = index.names.text, index.names.ends
        arrays = (*own, index.offsets, index.sizes, index.starts)
        stored = dict(zip(_ARRAYS, arrays, strict=True))
        stored["note"] = np.frombuffer(index.note.encode(), np.uint8)
        index_cache.save("tar", path, stamp, stored)
    return index


def split(name: str) -> tuple[str, str]:
    """Key and ending of a member: `a/b.seg.png` -> (`a/b`, `seg.png`)."""
    folder, slash, base = name.rpartition("/")
    key, _, ending = base.partition(".")
    return f"{folder}{slash}{key}", ending.lower()


def _read(path: str, size: int) -> TarIndex:
    names: list[str] = []
    spans: list[tuple[int, int]] = []
    starts: list[int] = []
    key, endings = "", set[str]()
    why = ""
    try:
        for member in _members(path, size):
            name = member.name.removeprefix("./")
            its_key, ending = split(name)
            if not _is_wanted(name, ending, member.size):
                continue
            # Only neighbours are one example, so one pass is enough.
            if its_key != key or ending in endings or not starts:
                starts.append(len(names))
                key, endings = its_key, set()
            endings.add(ending)
            names.append(name)
            spans.append((member.offset_data, member.size))
    except _DAMAGE as error:
        why = places.one_line(error)
    if why and not any(map(is_image_name, names)):
        raise UserError(
            f"Archive {path} is not a complete, uncompressed tar ({why}): "
            "unpack .gz or .zst archives first, or fetch it again."
        )
    note = why and (
        f"Archive {path} is cut or damaged ({why}): only the whole files "
        f"before that are used ({len(names):,} of them), so fetch it again."
    )
    table = np.array(spans, np.int64).reshape(-1, 2)
    bounds = np.array([*starts, len(names)], np.int64)
    offsets, sizes = np.ascontiguousarray(table.T)
    return TarIndex(Names.of(names), offsets, sizes, bounds, note)


def _members(path: str, size: int) -> Iterator[tarfile.TarInfo]:
    """Yields the plain files that are whole; raises one of `_DAMAGE`."""
    last = -1
    with (
        places.open_file(path) as file,
        _opened(_Headers(file)) as archive,
    ):
        while (member := archive.next()) is not None:
            # tarfile remembers every member; a million would cost 1 GB.
            archive.members.clear()  # type: ignore[attr-defined]
            if member.offset <= last:
                raise tarfile.ReadError("its headers lead backwards")
            last = member.offset
            end = member.offset_data + member.size
            if not member.isreg() or member.issparse():
                continue
            if member.size < 0 or end > size:
                raise tarfile.ReadError(f"{member.name} is not whole")
            yield member
        # tarfile ends without a word where a header is damaged.
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("no end mark follows its last header")


def _opened(file: Any) -> tarfile.TarFile:
    return tarfile.open(fileobj=file, mode="r:")


def _is_wanted(name: str, ending: str, size: int) -> bool:
    if name.rpartition("/")[2].startswith("."):
        return False
    return is_image_name(name) or (ending in SIDECARS and size <= MAX_BYTES)
