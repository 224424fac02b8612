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

import errno
import json
import os
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from i2i_prior.io.child_process import STOP_SIGNALS, Exit, signal_name
from i2i_prior.io.disk import write_errors
from i2i_prior.io.log_tail import tail_cause

FILE = "events.jsonl"
_REMEDY = "make the sweep's folder writable"
# Exit codes: the trainer's own, and those of an attempt.
DONE, MISTAKE, DIVERGED, FULL_DISK, AGAIN = 0, 1, 65, 74, 75
FAILURES = ("crashed", "hung", "disk_full")  # counted, and retried
INTERRUPTIONS = ("preempted", "lost")  # not caused by the run
# Bound for a run that is interrupted every time.
MAX_INTERRUPTIONS = 100


def append(folder: Path, event: str, **facts: Any) -> None:
    """Appends one line to a run's `Sweep.attempts`. Raises UserError."""
    text = json.dumps({"event": event, "time": round(time.time(), 3), **facts})
    with write_errors(folder / FILE, _REMEDY):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / FILE).open("a+b", buffering=0) as file:
            # A line that a full disk cut must not swallow the next one.
            size = file.seek(0, os.SEEK_END)
            cut = size and os.pread(file.fileno(), 1, size - 1) != b"\n"
            line = b"\n" * bool(cut) + f"{text}\n".encode()
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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


def since_retry(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Events since the last retry."""
    kept: list[dict[str, Any]] = []
    for event in events:
        if event["event"] == "retried":
            kept.clear()
        else:
            kept.append(dict(event))
    return kept


def classify(
    ended: Exit, log: Path, *, several: bool = False
) -> tuple[str, str]:
    """Outcome of an attempt, and its cause in one line, empty for "done".

    `ended` is the exit of the trainer, `log` its output. With `several` the run
    has other processes: exit code 1 is then no proof of a mistake, since a
    process that could not join the others exits with it, too.
    """
    code, asked = ended.code, ended.signalled
    if code == DONE:
        return "done", ""
    if code == DIVERGED:
        return "diverged", tail_cause(log)
    if ended.hung:
        return "hung", ended.hung
    if code == AGAIN:
        return "preempted", asked or tail_cause(log) or "it asked to be resumed"
    # Until the trainer handles signals they end it, as Ctrl-C does.
    if asked and (code == 130 or -code in (*STOP_SIGNALS, signal.SIGKILL)):
        return "preempted", asked
    if code == FULL_DISK:
        return "disk_full", tail_cause(log) or "the disk is full"
    if code in (1, 2) and not several:
        return "mistake", tail_cause(log) or f"exit code {code}"
    if code == -signal.SIGKILL:
        return "crashed", "killed (out of memory?)"
    if code < 0:
        return "crashed", f"killed by {signal_name(-code)}"
    return "crashed", tail_cause(log) or f"exit code {code}"


def verdict(events: Sequence[Mapping[str, Any]], max_attempts: int) -> int:
    """Exit code for the engine, after the events of a run so far.

    It is 0 done, 65 diverged, 75 start it (again), 1 for good: a mistake,
    cancelled, or failed `max_attempts` times.
    """
    recent = since_retry(events)
    ends = [e.get("outcome") for e in recent if e["event"] == "ended"]
    last = ends[-1] if ends else None
    if last in ("done", "diverged"):
        return DONE if last == "done" else DIVERGED
    failures = sum(end in FAILURES for end in ends)
    interruptions = sum(end in INTERRUPTIONS for end in ends)
    given_up = failures >= max_attempts or interruptions >= MAX_INTERRUPTIONS
    if last == "mistake" or count(recent, "cancelled") or given_up:
        return MISTAKE
    return AGAIN
