"""Images in tar archives."""

from __future__ import annotations

import glob
import os
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from i2i_prior.data.record import Record, fingerprint_of
from i2i_prior.data.sources.names import EXTENSIONS, is_image_name
from i2i_prior.errors import UserError

# Open archives per process: a training set of thousands of shards must not
# run into the usual limit of 1,024 open files.
_OPEN_ARCHIVES = 256


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
                if plain and is_image_name(member.name):
                    name = member.name.removeprefix("./")
                    yield name, member.offset_data, member.size
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(
            f"Archive {path} is not a complete, uncompressed tar ({error}): "
            "unpack .gz or .zst archives first, or fetch it again."
        ) from error
