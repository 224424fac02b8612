"""Events of a run of a sweep: attempts/ID/events.jsonl, append-only.

Events, each {"event", "time" (Unix seconds), ...}:

    submitted   backend, job (the engine's name of it)
    started     attempt (from 1), host, pid, job
    ended       attempt, code, outcome, cause (one line), seconds
    cancelled   by a person; nothing is started until a retry
    retried     by a person; attempts are counted from here

Outcomes: done, diverged, preempted (saved on a signal), crashed, hung,
disk_full, mistake (exit 1 or 2: a config or data error), lost (its machine
or launcher died; the next attempt writes this end, with no code). A started
attempt without an end is running, or was lost.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from i2i_prior.errors import FullDiskError
from i2i_prior.io.disk import write_errors

FILE = "events.jsonl"
_REMEDY = "free space or make the sweep's folder writable"


def append(folder: Path, event: str, **facts: Any) -> None:
    """Appends one event; the line is one write.

    Args:
      folder: `Sweep.attempts` of the run, made if absent.
      event: see the module docstring.
      **facts: its further keys.

    Raises:
      UserError: it cannot be written.
    """
    line = json.dumps({"event": event, "time": round(time.time(), 3), **facts})
    with write_errors(folder / FILE, _REMEDY, FullDiskError):
        folder.mkdir(parents=True, exist_ok=True)
        _add(folder / FILE, f"{line}\n".encode())


def _add(path: Path, line: bytes) -> None:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(file).st_size
        # A line that a full disk cut must not swallow the next one.
        if size and os.pread(file, 1, size - 1) != b"\n":
            line = b"\n" + line
        if os.write(file, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(file)


def read(folder: Path) -> list[dict[str, Any]]:
    """Events so far, in order; torn lines are left out."""
    try:
        text = (folder / FILE).read_bytes()
    except FileNotFoundError:
        return []
    events = []
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event:
            events.append(event)
    return events


def count(known: Iterable[Mapping[str, Any]], event: str) -> int:
    """Number of events of one kind."""
    return sum(each["event"] == event for each in known)
