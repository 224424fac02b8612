"""Files by path, or by URL through fsspec if it is installed."""

from __future__ import annotations

import glob
import os
import re
from typing import IO, Any

from i2i_prior.errors import UserError

_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
# Attributes of a remote file that change with its content.
_MARKS = (
    *("etag", "e_tag", "md5Hash", "Content-MD5", "generation", "updated"),
    *("mtime", "last_modified", "LastModified", "Last-Modified", "created"),
    *("blob_id", "modify", "modificationTime"),
)
_MISSING = (ImportError, ModuleNotFoundError)


def is_url(place: str) -> bool:
    """Returns True for a place in a remote file system, as `s3://b/x.tar`."""
    return _URL.match(place) is not None


def absolute(place: str) -> str:
    """Absolute path of a path or `file://` URL; other URLs unchanged."""
    for scheme in ("file://", "local://"):
        place = place.removeprefix(scheme)
    if is_url(place):
        return place.rstrip("/")
    return os.path.abspath(os.path.expanduser(place))


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
        UserError: the protocol is unknown, the package for it is missing, or
            it refuses.
    """
    protocol = url.partition("://")[0]
    try:
        import fsspec.core

        return fsspec.core.url_to_fs(url)
    except _MISSING as error:
        raise UserError(
            f"{url} cannot be read without a package for {protocol}:// "
            f"({error}): install it, or copy the data to this machine."
        ) from error
    # Each package has errors of its own.
    except Exception as error:
        raise UserError(
            f"{url} cannot be reached ({one_line(error)}): check the protocol "
            "and the address."
        ) from error


def find(pattern: str, scheme: str) -> list[str]:
    """The files of a path, URL or wildcard, sorted.

    Args:
        pattern: absolute path or URL; an existing one is no wildcard, so that
            brackets in a real name work.
        scheme: of the SPEC, for the message.

    Raises:
        UserError: there is none, or only a folder.
    """
    if is_url(pattern):
        files = _find_remote(pattern)
    else:
        exists = os.path.exists(pattern)
        paths = [pattern] if exists else glob.glob(pattern, recursive=True)
        files = sorted(path for path in paths if os.path.isfile(path))
    if not files and _is_folder(pattern):
        raise UserError(
            f"{pattern} is a folder: name the files in it, as in "
            f"'{scheme}:{pattern}/*.{scheme}'."
        )
    if not files:
        raise UserError(
            f"{pattern} does not exist: check the path after {scheme}: and "
            f"quote wildcards, as in '{scheme}:/data/*.{scheme}'."
        )
    return files


def _find_remote(pattern: str) -> list[str]:
    system, path = filesystem(pattern)
    try:
        wild = any(mark in path for mark in "*?[") and not system.exists(path)
        paths = system.glob(path) if wild else [path]
        files = [path for path in paths if system.isfile(path)]
        return sorted(system.unstrip_protocol(path) for path in files)
    except Exception as error:
        raise UserError(
            f"{pattern} cannot be listed ({one_line(error)}): check the "
            "address and your access to it."
        ) from error


def _is_folder(place: str) -> bool:
    if not is_url(place):
        return os.path.isdir(place)
    system, path = filesystem(place)
    try:
        return bool(system.isdir(path))
    except Exception:
        return False


def stamp(place: str) -> tuple[int, str, int]:
    """Size in bytes, a text that changes with the content, mtime in ns.

    For a URL the time is 0, and the text is "" if the file system has no
    attribute that changes with the content; raises OSError.
    """
    if not is_url(place):
        status = os.stat(place)
        return (
            status.st_size,
            f"{status.st_size} {status.st_mtime_ns}",
            status.st_mtime_ns,
        )
    system, path = filesystem(place)
    try:
        info = {str(k): v for k, v in system.info(path).items()}
        size = int(info["size"])
    except Exception as error:
        raise OSError(5, one_line(error)) from error
    marks = {name.lower() for name in _MARKS}
    found = [
        f"{key}={value}"
        for key, value in sorted(info.items(), key=lambda item: item[0])
        if key.lower() in marks and value not in (None, "")
    ]
    return size, " ".join([str(size), *found]) if found else "", 0


def open_file(place: str) -> IO[bytes]:
    """Opens a file for seeking and reading; raises OSError."""
    if not is_url(place):
        return open(place, "rb")
    system, path = filesystem(place)
    try:
        return system.open(path, "rb")
    except Exception as error:
        raise OSError(5, one_line(error)) from error


def read(place: str, start: int = 0, size: int | None = None) -> bytes:
    """Reads `size` bytes from `start` on, or all; raises OSError."""
    if not is_url(place):
        with open(place, "rb") as file:
            file.seek(start)
            return file.read(-1 if size is None else size)
    system, path = filesystem(place)
    end = None if size is None else start + size
    try:
        return system.cat_file(path, start=start or None, end=end)
    except Exception as error:
        raise OSError(5, one_line(error)) from error


def one_line(error: BaseException) -> str:
    """Message of an error on one line of 200 characters at most."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."
