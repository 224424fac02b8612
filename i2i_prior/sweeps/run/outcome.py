"""Outcome of an attempt at a run, and what may follow: pure functions."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from i2i_prior.io.child_process import STOP_SIGNALS, Exit, signal_name
from i2i_prior.io.log_tail import tail_cause

# Exit codes: the trainer's own, and those of an attempt.
DONE, MISTAKE, DIVERGED, FULL_DISK, AGAIN = 0, 1, 65, 74, 75
FAILURES = ("crashed", "hung", "disk_full")  # counted, and retried
INTERRUPTIONS = ("preempted", "lost")  # not caused by the run
# Bound for a run that is interrupted every time.
MAX_INTERRUPTIONS = 100


def classify(
    ended: Exit, log: Path, *, several: bool = False
) -> tuple[str, str]:
    """Outcome of an attempt and its cause, in one line.

    Args:
      ended: exit of the trainer.
      log: its output.
      several: the run has other processes. Exit code 1 is then no proof of a
        mistake: a process that could not join the others exits with it, too.

    Returns:
      outcome and cause, see `events`; the cause of "done" is empty.
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


def since_retry(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Events since the last retry."""
    kept: list[dict[str, Any]] = []
    for event in events:
        if event["event"] == "retried":
            kept.clear()
        else:
            kept.append(dict(event))
    return kept


def verdict(events: Sequence[Mapping[str, Any]], max_attempts: int) -> int:
    """Exit code for the engine, after the events of a run so far.

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
