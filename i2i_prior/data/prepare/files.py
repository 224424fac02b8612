"""Files that are there whole or not at all, whenever the process dies."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SUFFIX = ".part"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """A file beside `path` to write, which then takes its name.

    Its name is nobody else's: a process whose parent was killed may still
    be at the same file. On an exception it is removed.

    Raises:
        OSError: of the disk.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_SUFFIX}")
    try:
        yield beside
        _sync(beside)
        os.replace(beside, path)
        _sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes plain values; raises OSError."""
    with written(path) as beside:
        beside.write_text(json.dumps(value, indent=1) + "\n")


def sweep(folder: Path) -> None:
    """Removes what killed processes left half-written."""
    for path in folder.glob(f".*{_SUFFIX}"):
        path.unlink(missing_ok=True)


def disk_error(error: BaseException, path: Path) -> OSError | None:
    """The OSError that an error of a C++ library says in words, if any."""
    if isinstance(error, OSError):
        return error
    for number in _FULL:
        if os.strerror(number) in str(error):
            return OSError(number, os.strerror(number), str(path))
    return None


def is_full(error: OSError) -> bool:
    """Whether the disk, or what this user may use of it, is full."""
    return error.errno in _FULL


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
