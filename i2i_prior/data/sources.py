"""Sources of images: `folder:`, `tar:` and `builtin:` behind one protocol.

A source is an immutable list of records with random access. Reading record i
needs no state, so any thread, worker process or host may read any record.
"""

from __future__ import annotations

import glob
import hashlib
import os
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from i2i_prior.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# Open archives per process: a training set of thousands of shards must not
# run into the usual limit of 1,024 open files.
_OPEN_ARCHIVES = 256


@dataclass(frozen=True)
class Record:
    """One stored image: encoded bytes, or pixels (H, W, 3) uint8 in [0, 255].

    `name` is relative to the source (path in the folder, member of the tar).
    Pixels are read-only, for a source may hand out the same array again.
    """

    name: str
    data: bytes | np.ndarray


class Source(Protocol):
    """Random access to the images of one place."""

    def __len__(self) -> int:
        """Number of records, at least 1."""
        ...

    def __getitem__(self, index: int) -> Record:
        """Record `index`; raises OSError where it cannot be read."""
        ...

    def fingerprint(self) -> str:
        """16 hex digits that change with the list of names or sizes.

        No image is read for it, and the place does not enter: the same
        folder mounted elsewhere has the same fingerprint.
        """
        ...


def open_source(spec: str) -> Source:
    """Opens a SPEC such as `folder:/data/images` or `builtin:photos`.

    Args:
        spec: `folder:PATH` (recursive), `tar:PATTERN` (WebDataset shards,
            wildcards allowed), `builtin:photos`, `builtin:photos/heldout`.

    Returns:
        A source of at least one record, in an order that depends only on
        the names.

    Raises:
        UserError: the scheme is unknown, or nothing readable is there.
    """
    scheme, colon, rest = spec.partition(":")
    if not colon or scheme not in OPENERS:
        known = ", ".join(f"{name}:" for name in OPENERS)
        raise UserError(
            f"Image source {spec!r} is not understood: write one of {known} "
            "followed by a path or name, as in folder:/data/images."
        )
    if not rest:
        raise UserError(
            f"Image source {spec!r} names nothing after the colon: write a "
            "path or name there, as in folder:/data/images."
        )
    return OPENERS[scheme](rest)


def fingerprint_of(
    kind: str, names: Iterable[str], sizes: Iterable[int]
) -> str:
    """First 16 hex digits of a SHA-256 over the kind, names and sizes."""
    digest = hashlib.sha256(kind.encode())
    for name, size in zip(names, sizes, strict=True):
        digest.update(name.encode("utf-8", "surrogateescape"))
        digest.update(b"\0%d\0" % size)
    return digest.hexdigest()[:16]


def _is_image_name(path: str) -> bool:
    """Whether a path names an image that is not hidden (`._x.jpg`, ...)."""
    base = path.rpartition("/")[2]
    return base.lower().endswith(EXTENSIONS) and not base.startswith(".")


class FolderSource:
    """Every image below a folder, sorted by relative path.

    Hidden files and folders are passed over. Links to folders are followed,
    each real folder once, so a loop of links ends.
    """

    def __init__(self, path: str) -> None:
        self._root = os.path.abspath(os.path.expanduser(path))
        if not os.path.isdir(self._root):
            raise UserError(
                f"Folder {path} does not exist: check the path after folder:."
            )
        self.names: Sequence[str] = sorted(_walk(self._root))
        if not self.names:
            raise UserError(
                f"Folder {path} holds no image: put files ending in "
                f"{', '.join(EXTENSIONS)} in it or below it."
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Record:
        name = self.names[index]
        with open(os.path.join(self._root, name), "rb") as file:
            return Record(name, file.read())

    def fingerprint(self) -> str:
        paths = (os.path.join(self._root, name) for name in self.names)
        sizes = (os.stat(path).st_size for path in paths)
        return fingerprint_of("folder", self.names, sizes)


def _walk(root: str) -> Iterator[str]:
    """Yields the relative paths of all images below `root`, depth first."""
    seen: set[tuple[int, int]] = set()
    pending = [""]
    while pending:
        relative = pending.pop()
        folder = os.path.join(root, relative)
        try:
            status = os.stat(folder)
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(
                f"Folder {folder} cannot be read ({error.strerror}): allow "
                "reading it or move it out of the image folder."
            ) from error
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        below = []
        for entry in entries:
            name = f"{relative}{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                below.append(f"{name}/")
            elif _is_image_name(name) and entry.is_file():
                yield name
        pending.extend(reversed(below))


class _Archive:
    """An open file descriptor that closes when its last user lets go.

    A reader may still hold one that the cache has dropped, hence no explicit
    close.
    """

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        # Absent when os.open raised.
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class TarSource:
    """The images inside uncompressed tar archives, in archive order.

    The archives are walked once for the offsets; a read is one `os.pread`,
    which needs no lock and no seek. Nothing is ever unpacked, so absolute
    or `..` member names do no harm. Other members (`.cls`, `.txt`, ...) are
    passed over. With several archives a name is `archive.tar/member`.
    """

    def __init__(self, pattern: str) -> None:
        self._paths = _find_archives(pattern)
        names: list[str] = []
        places: list[tuple[int, int, int]] = []
        for number, path in enumerate(self._paths):
            prefix = f"{os.path.basename(path)}/" if self._paths[1:] else ""
            for name, offset, size in _index_archive(path):
                names.append(prefix + name)
                places.append((number, offset, size))
        if not names:
            raise UserError(
                f"Archive {pattern} holds no image: its members should end "
                f"in {', '.join(EXTENSIONS)}."
            )
        self.names: Sequence[str] = names
        self._places = np.array(places, np.int64)
        self._open: OrderedDict[int, _Archive] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Record:
        number, offset, size = self._places[index].tolist()
        archive = self._archive(number)
        data = os.pread(archive.descriptor, size, offset)
        return Record(self.names[index], data)

    def fingerprint(self) -> str:
        return fingerprint_of("tar", self.names, self._places[:, 2].tolist())

    def _archive(self, number: int) -> _Archive:
        with self._lock:
            archive = self._open.pop(number, None)
            if archive is None:
                archive = _Archive(self._paths[number])
            self._open[number] = archive
            if len(self._open) > _OPEN_ARCHIVES:
                self._open.popitem(last=False)
            return archive

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        del state["_open"], state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open = OrderedDict()
        self._lock = threading.Lock()


def _find_archives(pattern: str) -> list[str]:
    """Absolute paths of the archives that a path or wildcard means."""
    expanded = os.path.abspath(os.path.expanduser(pattern))
    # A plain path wins, so that brackets in a real file name work.
    paths = [expanded] if os.path.exists(expanded) else glob.glob(expanded)
    files = sorted(path for path in paths if os.path.isfile(path))
    if not files:
        raise UserError(
            f"Archive {pattern} does not exist: check the path after tar: "
            "and quote wildcards, as in 'tar:/data/*.tar'."
        )
    return files


def _index_archive(path: str) -> Iterator[tuple[str, int, int]]:
    """Yields (name, offset in bytes, size in bytes) of every image."""
    try:
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                # tarfile remembers every member; a million would cost 1 GB.
                archive.members.clear()  # type: ignore[attr-defined]
                plain = member.isreg() and not member.issparse()
                if plain and _is_image_name(member.name):
                    name = member.name.removeprefix("./")
                    yield name, member.offset_data, member.size
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(
            f"Archive {path} is not a complete, uncompressed tar ({error}): "
            "unpack .gz or .zst archives first, or fetch it again."
        ) from error


def _open_builtin(name: str) -> Source:
    from i2i_prior.data.builtin import PhotoSource

    return PhotoSource(name)


def _not_read_yet(scheme: str) -> Callable[[str], Source]:
    def refuse(rest: str) -> Source:
        raise UserError(
            f"Image source {scheme}:{rest} is of a kind that this version "
            "does not read yet: use folder: or tar: instead."
        )

    return refuse


OPENERS: dict[str, Callable[[str], Source]] = {
    "folder": FolderSource,
    "tar": TarSource,
    "builtin": _open_builtin,
    "arrayrecord": _not_read_yet("arrayrecord"),
    "tfds": _not_read_yet("tfds"),
}
