"""Locks that end with their process: one trainer a run, one launcher a sweep.

flock, which the kernel releases however a process dies. Where a file system
has none, there is no protection, and everything goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from pathlib import Path

from i2i_prior.errors import FullDiskError
from i2i_prior.io.disk import write_errors
from i2i_prior.sweeps.run.events import MEND

RUN = "lock"  # in attempts/ID/: of whoever trains it


def take(path: Path, wait: float = 0.0) -> int | None:
    """Locks a file, made if absent, and writes into it whose it is.

    Args:
      path: of the file; its folder is made, too.
      wait: seconds for another holder to let go.

    Returns:
      the open file, to be kept open (or inherited) as long as the lock lasts;
      None where somebody else has it.

    Raises:
      UserError: where the file cannot be made.
    """
    with write_errors(path, MEND, FullDiskError):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    due = time.monotonic() + wait
    while not _locked(file, fcntl.LOCK_EX):
        if time.monotonic() >= due:
            os.close(file)
            return None
        time.sleep(0.5)
    holder = {"host": socket.gethostname(), "pid": os.getpid()}
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(holder).encode(), 0)
    except OSError:
        pass  # a full disk: the lock holds without a name on it
    return file


def held(path: Path) -> bool | None:
    """Whether somebody has it, seen from this host; None: it cannot tell."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(file)
    return False


def holder(path: Path) -> str:
    """Who took it last, as "process 12 on n1"."""
    try:
        found = json.loads(path.read_text())
        return f"process {found['pid']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def leave(path: Path) -> None:
    """Its holder says that it takes up nothing more."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text())
        path.write_text(json.dumps({**found, "leaving": True}))


def leaving(path: Path) -> bool:
    """Whether its holder said so."""
    try:
        return bool(json.loads(path.read_text()).get("leaving"))
    except (OSError, ValueError, AttributeError):
        return False


def _locked(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # no locks here
    return True
