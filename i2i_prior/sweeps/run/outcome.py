"""How an attempt at a run ended, and what may follow: pure functions."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Exit codes: the trainer's own, and those of an attempt.
DONE, MISTAKE, DIVERGED, FULL_DISK, AGAIN = 0, 1, 65, 74, 75
FAILURES = ("crashed", "hung", "disk_full")  # these count, and are retried
INTERRUPTIONS = ("preempted", "lost")  # no fault of the run's
FINAL = ("done", "diverged", "mistake")
# A run that is only ever interrupted is no use to anybody either.
MAX_INTERRUPTIONS = 100
_LONGEST = 300  # characters of a cause
_TAIL = 64 * 1024  # bytes of a log in which its last words are looked for
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[@-_])")
_BAR = re.compile(r"\d+%\||\|[#█▏▎▍▌▋▊▉ ]+\||\bETA \d|it/s\b")
_EXCEPTION = re.compile(r"(?:\w+\.)*[A-Z]\w*(?::\s|$)")


def classify(
    code: int,
    log: Path,
    *,
    asked: str = "",
    hung: str = "",
    several: bool = False,
) -> tuple[str, str]:
    """What an end was, and why, in one line.

    Args:
      code: of the trainer; minus its number for a signal, as `subprocess`
        has it.
      log: where its words are.
      asked: the signal that was passed on to it, if any.
      hung: what it did not do any more, where it was stopped for that.
      several: whether the run has other processes. Then an exit 1 is no
        proof of a mistake: one that did not come is told in the same way.

    Returns:
      outcome and cause, see `events`; the cause of "done" is empty.
    """
    if code == DONE:
        return "done", ""
    if code == DIVERGED:
        return "diverged", tail_cause(log)
    if hung:
        return "hung", hung
    if code == AGAIN:
        return "preempted", asked or tail_cause(log) or "it asked to be resumed"
    # Before the trainer listens to signals they end it, as Ctrl-C does.
    if asked and (code == 130 or -code in (*_STOPS, signal.SIGKILL)):
        return "preempted", asked
    if code == FULL_DISK:
        return "disk_full", tail_cause(log) or "the disk is full"
    if code in (1, 2) and not several:
        return "mistake", tail_cause(log) or f"exit code {code}"
    if code < 0:
        return "crashed", _signal(-code)
    return "crashed", tail_cause(log) or f"exit code {code}"


_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


def _signal(number: int) -> str:
    if number == signal.SIGKILL:
        return "killed (out of memory?)"
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"killed by signal {number}"


def tail_cause(log: Path) -> str:
    """Why a program ended, by its log: one line of at most 300 characters.

    The last `error:` line, else the last line of the last exception, else the
    last line that is neither empty nor a bar; nothing where there is none.
    """
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [plain(line) for line in re.split(r"[\r\n]+", text)]
    lines = [line for line in lines if line and not _BAR.search(line)]
    errors = [line for line in lines if line.startswith("error: ")]
    if errors:
        return _cut(errors[-1].removeprefix("error: "))
    begins = [i for i, line in enumerate(lines) if line.startswith("Traceback")]
    # Code within it is indented; more lines of its message may follow.
    for line in lines[begins[-1] + 1 :] if begins else ():
        if _EXCEPTION.match(line):
            return _cut(line)
    return _cut(lines[-1].strip()) if lines else ""


def plain(text: str) -> str:
    """A line without the escapes and control characters of terminals."""
    text = _ESCAPES.sub("", text)
    return "".join(c if c.isprintable() else " " for c in text).rstrip()


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def since_retry(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The events since a person last asked to try again."""
    kept: list[dict[str, Any]] = []
    for event in events:
        if event["event"] == "retried":
            kept.clear()
        else:
            kept.append(dict(event))
    return kept


def verdict(events: Sequence[Mapping[str, Any]], max_attempts: int) -> int:
    """What an engine is told after the events of a run so far.

    Args:
      events: of `events.read`.
      max_attempts: failures after which a run is given up.

    Returns:
      0 done, 65 diverged, 75 start it (again), 1 for good: a mistake,
      cancelled, or failed too often.
    """
    recent = since_retry(events)
    ends = [e.get("outcome") for e in recent if e["event"] == "ended"]
    if ends and ends[-1] == "done":
        return DONE
    if ends and ends[-1] == "diverged":
        return DIVERGED
    cancelled = any(event["event"] == "cancelled" for event in recent)
    if cancelled or "mistake" in ends[-1:]:
        return MISTAKE
    failures = sum(end in FAILURES for end in ends)
    interruptions = sum(end in INTERRUPTIONS for end in ends)
    if failures >= max_attempts or interruptions >= MAX_INTERRUPTIONS:
        return MISTAKE
    return AGAIN
