"""Local paths, atomic files (whole or absent after any kill), the cache."""

import contextlib
import errno
import json
import math
import os
import re
import secrets
from collections.abc import Iterator
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from i2i_prior.errors import UserError

_SUFFIX = ".part"
# One slash where `Path` has been at it; one letter is a drive of Windows.
_URL = re.compile(r"(?i)[a-z][a-z0-9+.-]+:/")


def local_path(place: str | os.PathLike[str]) -> Path:
    """Path on this machine's disks, also of a `file://` URL.

    Raises:
      UserError: for the URL of a bucket or server. `Path` would make a folder
        `s3:` of it, which ends with the machine.
    """
    text = re.sub(r"^(file|local):(//)?", "", os.fspath(place))
    if _URL.match(text):
        raise UserError(
            f"{place} is a URL, and runs and results are written to a local "
            "folder: give a path, and copy it there afterwards"
        )
    return Path(text)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which then takes its name.

    The folder is made if absent; UserError for a URL, before that.
    The temporary name is unique: a process whose parent was killed may still
    be at the same file. On an exception it is removed.
    """
    path = local_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
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
    with atomic_path(Path(path)) as beside:
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
