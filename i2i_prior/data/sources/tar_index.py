"""Index of a tar archive, read once and then cached."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from i2i_prior.data import index_cache
from i2i_prior.data.record import MAX_SIDECAR, SIDECARS, split_name
from i2i_prior.data.sources import places
from i2i_prior.data.sources.names import Names, is_image_name
from i2i_prior.errors import UserError

# Exceptions of tarfile on hostile bytes.
_DAMAGE = (
    *(tarfile.TarError, OSError, EOFError, ValueError, ArithmeticError),
    *(MemoryError, RecursionError),
)
_MAX_HEADER = 1 << 20  # bytes
_AFTER_END = 1 << 20  # bytes examined, far more than any padding
_ARRAYS = ("text", "ends", "offsets", "sizes", "starts")


class _MoreError(Exception):
    """More than padding follows the end mark of an archive."""


class _Headers:
    """File wrapper that limits the size of a header.

    Without it tarfile allocates gigabytes for a long name that claims them.
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
    """The images and sidecars of one archive.

    Attributes:
        names: of the members, in archive order.
        offsets, sizes: int64, of their bytes in the archive.
        starts: int64, the first member of each example, and the number of
            members last.
        note: faults of the archive, in sentences, or "".
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
    before = time.time_ns()
    try:
        size, stamp, mtime = places.stamp(path)
    except OSError as error:
        raise UserError(
            f"Archive {path} cannot be read ({error.strerror}): check that "
            "it is there and may be read."
        ) from error
    # Without a stamp an outdated index could not be recognised.
    kept = index_cache.load("tar", path, stamp) if stamp else None
    if kept is not None and {*_ARRAYS, "note"} == set(kept):
        text, ends, offsets, sizes, starts = (kept[name] for name in _ARRAYS)
        note = kept["note"].tobytes().decode()
        return TarIndex(Names(text, ends), offsets, sizes, starts, note)
    index = _read(path, size)
    if stamp and index_cache.settled(mtime, before):
        own = index.names.text, index.names.ends
        arrays = (*own, index.offsets, index.sizes, index.starts)
        stored = dict(zip(_ARRAYS, arrays, strict=True))
        stored["note"] = np.frombuffer(index.note.encode(), np.uint8)
        index_cache.save("tar", path, stamp, stored)
    return index


class _Links:
    """Targets of hard links among the names so far.

    Attributes:
        lost: number of links to other targets.
    """

    def __init__(self, names: list[str]) -> None:
        self._names, self._known = names, 0
        self._numbers: dict[str, int] = {}
        self.lost = 0

    def number(self, target: str) -> int | None:
        # Built only if there are links, since it takes memory.
        for number in range(self._known, len(self._names)):
            self._numbers[self._names[number]] = number
        self._known = len(self._names)
        found = self._numbers.get(target.removeprefix("./"))
        self.lost += found is None
        return found


def _read(path: str, size: int) -> TarIndex:
    names: list[str] = []
    spans: list[tuple[int, int]] = []
    starts: list[int] = []
    key, endings = "", set[str]()
    links, why, goes_on = _Links(names), "", False
    try:
        for member in _members(path, size):
            name = member.name.removeprefix("./")
            its_key, ending = split_name(name)
            span = member.offset_data, member.size
            if member.islnk() and _is_wanted(name, ending, 0):
                number = links.number(member.linkname)
                if number is None:
                    continue
                span = spans[number]
            if not _is_wanted(name, ending, span[1]):
                continue
            # Only neighbours are one example, so one pass is enough.
            if its_key != key or ending in endings or not starts:
                starts.append(len(names))
                key, endings = its_key, set()
            endings.add(ending)
            names.append(name)
            spans.append(span)
    except _MoreError:
        goes_on = True
    except _DAMAGE as error:
        why = places.one_line(error)
    if why and not any(map(is_image_name, names)):
        raise UserError(
            f"Archive {path} is not a complete, uncompressed tar ({why}): "
            "unpack .gz or .zst archives first, or fetch it again."
        )
    table = np.array(spans, np.int64).reshape(-1, 2)
    bounds = np.array([*starts, len(names)], np.int64)
    offsets, sizes = np.ascontiguousarray(table.T)
    note = _note(path, len(names), why, goes_on, links.lost)
    return TarIndex(Names.of(names), offsets, sizes, bounds, note)


def _note(path: str, count: int, why: str, goes_on: bool, lost: int) -> str:
    """Faults of an archive, in sentences; `count` members are used."""
    notes = []
    if why:
        notes.append(
            f"Archive {path} is cut or damaged ({why}): only the whole files "
            f"before that are used ({count:,} of them), so fetch it again."
        )
    if goes_on:
        notes.append(
            f"Archive {path} goes on after its end mark: only the files "
            f"before that are used ({count:,} of them), so join archives "
            "with tar --concatenate, or give each as a file."
        )
    if lost:
        notes.append(
            f"Archive {path} has {lost:,} hard links to what does not lie "
            "before them as an image or sidecar: these are left out, so pack "
            "it with tar --hard-dereference."
        )
    # Names need not be UTF-8, the cached and printed text must be.
    return " ".join(notes).encode("utf-8", "backslashreplace").decode()


def _members(path: str, size: int) -> Iterator[tarfile.TarInfo]:
    """Yields hard links and complete regular files.

    Raises `_MoreError` or one of `_DAMAGE`.
    """
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
            if member.islnk():
                yield member
                continue
            if not member.isreg() or member.issparse():
                continue
            if member.size < 0 or end > size:
                raise tarfile.ReadError(f"{member.name} is not whole")
            yield member
        # tarfile ends silently at a damaged header.
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("no end mark follows its last header")
        after = file.read(_AFTER_END)
        file.seek(max(archive.offset, size - tarfile.BLOCKSIZE))
        if (after + file.read(tarfile.BLOCKSIZE)).strip(b"\0"):
            raise _MoreError


def _opened(file: Any) -> tarfile.TarFile:
    return tarfile.open(fileobj=file, mode="r:")


def _is_wanted(name: str, ending: str, size: int) -> bool:
    if name.rpartition("/")[2].startswith("."):
        return False
    return is_image_name(name) or (ending in SIDECARS and size <= MAX_SIDECAR)
