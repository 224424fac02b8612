"""Index of a tar archive, read once and then cached."""

import tarfile
import time
from collections.abc import Iterator
from typing import IO, Any, cast

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
_ARRAYS = {"text", "ends", "offsets", "sizes", "starts", "note"}


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


def index_of(path: str) -> index_cache.Arrays:
    """The images and sidecars of the archive at a path or URL.

    Returns:
        text, ends: the members' `Names`, in archive order.
        offsets, sizes: int64, of their bytes in the archive.
        starts: int64, the first member of each example, and the number of
            members last.
        note: uint8, faults of the archive in sentences, or nothing.

    UserError if this is no tar, or cut before the end of its first image.
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
    if kept is not None and set(kept) == _ARRAYS:
        return kept
    index = _read(path, size)
    if stamp and index_cache.settled(mtime, before):
        index_cache.save("tar", path, stamp, index)
    return index


def _read(path: str, size: int) -> index_cache.Arrays:
    names: list[str] = []
    spans: list[tuple[int, int]] = []
    starts: list[int] = []
    numbers: dict[str, int] = {}
    known, lost, key, endings = 0, 0, "", set[str]()
    why, goes_on = "", False
    try:
        for member in _members(path, size):
            name = member.name.removeprefix("./")
            its_key, ending = split_name(name)
            span = member.offset_data, member.size
            if member.islnk() and _is_wanted(name, ending, 0):
                # Filled only if there are links, since it takes memory.
                for number in range(known, len(names)):
                    numbers[names[number]] = number
                known = len(names)
                target = member.linkname.removeprefix("./")
                if target not in numbers:
                    lost += 1
                    continue
                span = spans[numbers[target]]
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
    packed = Names.of(names)
    table = np.array(spans, np.int64).reshape(-1, 2)
    offsets, sizes = np.ascontiguousarray(table.T)
    note = _note(path, len(names), why, goes_on, lost)
    return {
        "text": packed.text,
        "ends": packed.ends,
        "offsets": offsets,
        "sizes": sizes,
        "starts": np.array([*starts, len(names)], np.int64),
        "note": np.frombuffer(note, np.uint8),
    }


def _note(path: str, count: int, why: str, goes_on: bool, lost: int) -> bytes:
    """Faults of an archive, in sentences; `count` members are used."""
    faults = {
        f"Archive {path} is cut or damaged ({why}): only the whole files "
        f"before that are used ({count:,} of them), so fetch it again.": why,
        f"Archive {path} goes on after its end mark: only the files before "
        f"that are used ({count:,} of them), so join archives with tar "
        "--concatenate, or give each as a file.": goes_on,
        f"Archive {path} has {lost:,} hard links to what does not lie before "
        "them as an image or sidecar: these are left out, so pack it with "
        "tar --hard-dereference.": lost,
    }
    # Names need not be UTF-8, the cached and printed text must be.
    text = " ".join(sentence for sentence, holds in faults.items() if holds)
    return text.encode("utf-8", "backslashreplace")


def _members(path: str, size: int) -> Iterator[tarfile.TarInfo]:
    """Yields hard links and complete regular files.

    Raises `_MoreError` or one of `_DAMAGE`.
    """
    last = -1
    with (
        places.open_file(path) as file,
        tarfile.open(fileobj=cast(Any, _Headers(file)), mode="r:") as archive,
    ):
        while (member := archive.next()) is not None:
            # tarfile remembers every member; a million would cost 1 GB.
            archive.members.clear()  # type: ignore[attr-defined]
            if member.offset <= last:
                raise tarfile.ReadError("its headers lead backwards")
            last = member.offset
            end = member.offset_data + member.size
            whole = member.isreg() and not member.issparse()
            if whole and (member.size < 0 or end > size):
                raise tarfile.ReadError(f"{member.name} is not whole")
            if whole or member.islnk():
                yield member
        # tarfile ends silently at a damaged header.
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("no end mark follows its last header")
        after = file.read(_AFTER_END)
        file.seek(max(archive.offset, size - tarfile.BLOCKSIZE))
        if (after + file.read(tarfile.BLOCKSIZE)).strip(b"\0"):
            raise _MoreError


def _is_wanted(name: str, ending: str, size: int) -> bool:
    if name.rpartition("/")[2].startswith("."):
        return False
    return is_image_name(name) or (ending in SIDECARS and size <= MAX_SIDECAR)
