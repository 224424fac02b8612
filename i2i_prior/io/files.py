"""Atomic files, whole or absent after any kill, and the cache folder."""

import contextlib
import errno
import json
import math
import os
import secrets
from collections.abc import Iterator
from numbers import Integral, Real
from pathlib import Path
from typing import Any

_SUFFIX = ".part"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which then takes its name.

    The temporary name is unique: a process whose parent was killed may still
    be at the same file. On an exception it is removed.
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


def read_json_or_empty(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is none that can be read."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def nan_to_null(value: Any) -> Any:
    """Copy of dicts and lists with None for NaN and inf, which JSON lacks."""
    if isinstance(value, dict):
        return {key: nan_to_null(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [nan_to_null(part) for part in value]
    real = isinstance(value, Real) and not isinstance(value, Integral)
    if real and not math.isfinite(value):  # also of NumPy
        return None
    return value


def user_cache(*parts: str) -> Path:
    """Path below this user's cache folder of i2i_prior, there or not."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home, "i2i_prior", *parts)


def remove_partial(folder: Path) -> None:
    """Removes what killed processes left half-written."""
    for path in folder.glob(f".*{_SUFFIX}"):
        path.unlink(missing_ok=True)


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
