"""Goodput: wall time of a run by kind, from its first start on.

`goodput.json` in the run directory outlives restarts, so that time in which
no process ran and steps that were repeated count too. Goodput is the share
of time spent in steps that were kept ("ML Productivity Goodput",
cloud.google.com/blog, 2024).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from i2i_prior.checkpoint.run_dir import write_json

STEP, DATA_WAIT, START, DOWN, LOST = KINDS = (
    "step",  # training steps that count
    "data_wait",  # the loop waited for a batch
    "start",  # building and restoring, until the first step
    "down",  # no process ran (or its last seconds were not written)
    "lost",  # steps that a crash or a rollback made undone
)
_RENAMED = {"looking": "eval"}  # kinds of files that older versions wrote
_WRITE_SECONDS = 10.0  # between writes, so that quick steps stay quick


class GoodputTimer:
    """Books every second since the run's first start on one kind.

    timer = GoodputTimer(workdir / "goodput.json")    # the kind is "start"
    timer.begin(step)                                 # now it is "step"
    with timer.timed("checkpoint"):
        ...
    timer.save()

    Besides `KINDS` there are those of the callers: compile, checkpoint, eval,
    profile. Time in a `timed` within another one is booked on the outer one.

    Args:
      path: file that it is kept in; None for none (other hosts).
      clock: Unix seconds.
    """

    def __init__(
        self, path: Path | None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._path, self._clock = path, clock
        self._kind, self._since = START, clock()
        self._written = 0.0
        stored = _read(path)
        self.began: float = stored.get("began", self._since)
        self.seconds: dict[str, float] = {
            STEP: 0.0,
            **stored.get("seconds", {}),
        }
        # Seconds of steps at each checkpoint: what came later can be lost.
        self._marks = {int(k): v for k, v in stored.get("marks", {}).items()}
        if stored and not stored.get("done"):
            self._add(DOWN, self._since - stored["written"])
        elif stored:  # time after the end of a run is not down time
            self.began += self._since - stored["written"]

    def begin(self, step: int) -> None:
        """Starts to book steps from `step`; those done after it are lost."""
        self._switch(STEP)
        kept = self._marks.get(step, 0.0 if step == 0 else None)
        if kept is not None:
            self._add(LOST, self.seconds[STEP] - kept)
            self.seconds[STEP] = min(kept, self.seconds[STEP])
        self._marks = {k: v for k, v in self._marks.items() if k <= step}

    def restart(self) -> None:
        """Goes back to "start": a rollback restores before it steps again."""
        self._switch(START)

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Books time inside on `kind`."""
        if self._kind not in (STEP, START):
            yield
            return
        before = self._kind
        self._switch(kind)
        try:
            yield
        finally:
            self._switch(before)

    def mark(self, step: int) -> None:
        """Notes a checkpoint of `step`: no step before it can be lost."""
        self._switch(self._kind)
        self._marks[step] = self.seconds[STEP]

    def spent(self, *kinds: str) -> float:
        """Seconds of these kinds so far."""
        self._switch(self._kind)
        return sum(self.seconds.get(kind, 0.0) for kind in kinds)

    @property
    def goodput(self) -> float:
        """Share of the wall time since `began` that is "step", 0 to 1."""
        steps = self.spent(STEP)
        wall = self._since - self.began
        return min(steps / wall, 1.0) if wall > 0 else 1.0

    def save(self, *, now: bool = True, done: bool = False) -> None:
        """Writes the file; without `now` at most once in ten seconds.

        Raises:
          UserError: if the disk is full.
        """
        if self._path is None:
            return
        goodput = self.goodput
        if not now and self._since - self._written < _WRITE_SECONDS:
            return
        self._written = self._since
        write_json(
            self._path,
            {
                "goodput": round(goodput, 4),
                "seconds": self.seconds,
                "began": self.began,
                "written": self._since,
                "done": done,
                "marks": self._marks,
            },
        )

    def _switch(self, kind: str) -> None:
        """Books the time since the last switch, and goes over to `kind`."""
        now = self._clock()
        self._add(self._kind, now - self._since)
        self._kind, self._since = kind, now

    def _add(self, kind: str, seconds: float) -> None:
        if seconds > 0:  # a clock that was set back takes nothing away
            self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds


def merge_kinds(seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds by kind, with the kinds of older versions under today's name."""
    merged: dict[str, float] = {}
    for kind, value in seconds.items():
        kind = _RENAMED.get(kind, kind)
        merged[kind] = merged.get(kind, 0.0) + value
    return merged


def _read(path: Path | None) -> dict[str, Any]:
    """Reads the file of an earlier process; empty if there is none to read."""
    try:
        stored = json.loads(path.read_text()) if path else {}
        if not {"began", "written", "seconds"} <= set(stored):
            return {}
        return stored | {"seconds": merge_kinds(stored["seconds"])}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
