"""Atomic files and an exclusive folder: whole or not at all after any kill."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from i2i_prior.errors import UserError

_LOCK, _SUFFIX = ".lock", ".part"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which then takes its name.

    The temporary name is unique: a process whose parent was killed may still
    be at the same file. On an exception it is removed.

    Raises:
        OSError: of the disk.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_SUFFIX}")
    try:
        yield beside
        _sync(beside)
        os.replace(beside, path)
        _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file atomically; makes its folder. Raises OSError."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as beside:
        beside.write_bytes(content)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes JSON atomically, objects as their `str`. Raises OSError."""
    text = json.dumps(value, indent=2, default=str)
    write_bytes(path, f"{text}\n".encode())


def nan_to_null(value: Any) -> Any:
    """Copy of dicts and lists with None for NaN and inf, which JSON lacks."""
    if isinstance(value, dict):
        return {key: nan_to_null(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [nan_to_null(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def remove_partial(folder: Path) -> None:
    """Removes what killed processes left half-written."""
    for path in folder.glob(f".*{_SUFFIX}"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Makes the folder, and keeps other commands out of it.

    Where no lock can be had, as on some shared file systems, it goes on
    without; what else is wrong with the folder shows when it is written.

    Raises:
        UserError: another command is at it.
    """
    path = folder / _LOCK
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    descriptor = _lock(path)
    try:
        yield
    finally:
        if descriptor is not None:
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(descriptor)


def _lock(path: Path) -> int | None:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise UserError(
                f"another command is at {path.parent}: wait for it to end, or "
                "choose another --out"
            ) from error
        except OSError:
            return descriptor
        # Who had it before may have removed the file since it was opened.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    try:
        _sync(path)
    except OSError as error:
        # Some file systems sync files alone.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
