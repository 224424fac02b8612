"""File locks that end with their process, however it dies: flock.

Where a file system has no locks there is no protection, and work goes on.

Not `filelock`: 4.3.1 cannot test a lock without making its file, as for a
sweep of another user, leaves the file of a released lock in the folder, and
raises where there are no locks (ENOLCK).
"""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from i2i_prior.errors import UserError
from i2i_prior.io.disk import write_errors
from i2i_prior.io.files import read_json_or_empty

_FOLDER_LOCK = ".lock"
_RETRY = 0.5  # seconds


def acquire(path: Path, timeout: float = 0.0) -> int | None:
    """Locks a file, and writes host and process id of the holder into it.

    The file and its folder are made if absent (UserError if they cannot
    be); another holder is waited for `timeout` seconds.

    Returns:
      file descriptor, to be kept open (or inherited by a child) as long as
      the lock lasts; None where another process holds it.
    """
    deadline = time.monotonic() + timeout
    while True:
        with write_errors(path, "make the folder writable"):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        locked = _lock(file, fcntl.LOCK_EX)
        if locked is not False and os.fstat(file).st_nlink:
            break
        os.close(file)
        if locked is False:
            if time.monotonic() >= deadline:
                return None
            time.sleep(_RETRY)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
    with contextlib.suppress(OSError):  # on a full disk it stays unnamed
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(holder).encode(), 0)
    return file


def is_held(path: Path) -> bool | None:
    """Checks if a process holds a lock; None where it cannot be seen."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        free = _lock(file, fcntl.LOCK_SH)
    finally:
        os.close(file)
    return None if free is None else not free


def holder(path: Path) -> str:
    """Last holder, as "process 12 on n1 (since 2026-11-30 21:07:44)"."""
    found = read_json_or_empty(path)
    if "pid" not in found or "host" not in found:
        return "another process"
    since = f" (since {found['since']})" if "since" in found else ""
    return f"process {found['pid']} on {found['host']}{since}"


def announce_leaving(path: Path) -> None:
    """Notes in a lock that its holder accepts no further work."""
    if found := read_json_or_empty(path):
        with contextlib.suppress(OSError):
            path.write_text(json.dumps({**found, "leaving": True}))


def is_leaving(path: Path) -> bool:
    """Returns True once the holder has called `announce_leaving`."""
    return bool(read_json_or_empty(path).get("leaving"))


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Makes a folder and keeps other commands out of it (UserError).

    Where the lock cannot be made work goes on: other faults of the folder
    show when it is written.
    """
    path = folder / _FOLDER_LOCK
    with contextlib.ExitStack() as held:
        try:
            file = acquire(path)
        except UserError:
            pass
        else:
            if file is None:
                raise UserError(
                    f"another command is at {folder}: wait for it to end, or "
                    "choose another --out"
                )
            held.callback(os.close, file)
            held.callback(path.unlink, missing_ok=True)
        yield


def _lock(file: int, kind: int) -> bool | None:
    """Tries to lock an open file; None where there are no locks."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
