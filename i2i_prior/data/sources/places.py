"""Files by path, or by URL through fsspec."""

import contextlib
import glob
import os
import re
from collections.abc import Iterator
from typing import IO, Any

from i2i_prior.errors import UserError

_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
# Attributes of a remote file that change with its content, in small letters.
_MARKS = (
    *("etag", "e_tag", "md5hash", "content-md5", "generation", "updated"),
    *("mtime", "last_modified", "lastmodified", "last-modified", "created"),
    *("blob_id", "modify", "modificationtime"),
)


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
    """The fsspec file system of a URL, and the path in it; UserError if the
    protocol is unknown, its package is missing, or it refuses."""
    protocol = url.partition("://")[0]
    try:
        import fsspec.core

        return fsspec.core.url_to_fs(url)
    except ImportError as error:
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

    The pattern is an absolute path or URL; an existing one is no wildcard, so
    that brackets in a real name work. `scheme` is that of the SPEC, for the
    message. UserError if there is no file, or only a folder.
    """
    if is_url(pattern):
        files, is_folder = _find_remote(pattern)
    else:
        exists, is_folder = os.path.exists(pattern), os.path.isdir(pattern)
        paths = [pattern] if exists else glob.glob(pattern, recursive=True)
        files = sorted(path for path in paths if os.path.isfile(path))
    if not files and is_folder:
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


def _find_remote(pattern: str) -> tuple[list[str], bool]:
    """The same of a URL, and whether it is a folder."""
    system, path = filesystem(pattern)
    with listing(pattern):
        wild = any(mark in path for mark in "*?[") and not system.exists(path)
        paths = system.glob(path) if wild else [path]
        files = [path for path in paths if system.isfile(path)]
        found = sorted(system.unstrip_protocol(path) for path in files)
        return found, not found and bool(system.isdir(path))


@contextlib.contextmanager
def listing(what: str) -> Iterator[None]:
    """Turns any error of a remote file system into a UserError."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f"{what} cannot be listed ({one_line(error)}): check the address "
            "and your access to it."
        ) from error


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Turns any error of a remote file system into an OSError."""
    try:
        yield
    except Exception as error:
        raise OSError(5, one_line(error)) from error


def stamp(place: str) -> tuple[int, str, int]:
    """Size in bytes, a text that changes with the content, mtime in ns.

    For a URL the time is 0, and the text is "" if the file system has no
    attribute that changes with the content; raises OSError.
    """
    if not is_url(place):
        status = os.stat(place)
        size, time = status.st_size, status.st_mtime_ns
        return size, f"{size} {time}", time
    system, path = filesystem(place)
    with _reading():
        info = {str(k): v for k, v in system.info(path).items()}
        size = int(info["size"])
    found = [
        f"{key}={info[key]}"
        for key in sorted(info)
        if key.lower() in _MARKS and info[key] not in (None, "")
    ]
    return size, " ".join([str(size), *found]) if found else "", 0


def open_file(place: str) -> IO[bytes]:
    """Opens a file for seeking and reading; raises OSError."""
    if not is_url(place):
        return open(place, "rb")
    system, path = filesystem(place)
    with _reading():
        return system.open(path, "rb")


def read(place: str, start: int = 0, size: int | None = None) -> bytes:
    """Reads `size` bytes from `start` on, or all; raises OSError."""
    if not is_url(place):
        with open(place, "rb") as file:
            file.seek(start)
            return file.read(-1 if size is None else size)
    system, path = filesystem(place)
    end = None if size is None else start + size
    with _reading():
        return system.cat_file(path, start=start or None, end=end)


def one_line(error: BaseException) -> str:
    """Message of an error on one line of 200 characters at most."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."
