"""Where the wall time of a run went, from its first start on.

`goodput.json` in the run directory outlives restarts, so that time in which
nothing ran and work that had to be done again count too. Goodput is the share
that went into steps that stayed (the word is Google's: "ML Productivity
Goodput", cloud.google.com/blog, 2024).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from i2i_prior.checkpoint.run_dir import write_json

STEP, DATA_WAIT, START, DOWN, LOST = KINDS = (
    "step",  # training steps that count
    "data_wait",  # the loop waited for a batch
    "start",  # building and restoring, until the first step
    "down",  # no process ran (or its last words were not written)
    "lost",  # steps that a crash or a rollback made undone
)
_WRITE_SECONDS = 10.0  # between writes, so that quick steps stay quick


class Ledger:
    """Every second since the run's first start belongs to one kind.

    ledger = Ledger(workdir / "goodput.json")    # the kind is "start"
    ledger.begin(step)                           # now it is "step"
    with ledger.spend("checkpoint"):
        ...
    ledger.save()

    Besides `KINDS`, callers name their own: compile, checkpoint, looking.
    Time inside of `spend` within another `spend` belongs to the outer one.

    Args:
      path: where it is kept; None keeps it nowhere (other hosts).
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
        elif stored:  # nobody waited for a run that was done
            self.began += self._since - stored["written"]

    def begin(self, step: int) -> None:
        """Steps go on from `step`; what was done after it counts as lost."""
        self._turn(STEP)
        kept = self._marks.get(step, 0.0 if step == 0 else None)
        if kept is not None:
            self._add(LOST, self.seconds[STEP] - kept)
            self.seconds[STEP] = min(kept, self.seconds[STEP])
        self._marks = {k: v for k, v in self._marks.items() if k <= step}

    def restart(self) -> None:
        """Back to "start": a rollback restores before it steps again."""
        self._turn(START)

    @contextmanager
    def spend(self, kind: str) -> Iterator[None]:
        """Time inside counts as `kind`."""
        if self._kind not in (STEP, START):
            yield
            return
        before = self._kind
        self._turn(kind)
        try:
            yield
        finally:
            self._turn(before)

    def mark(self, step: int) -> None:
        """A checkpoint of `step` is made: work up to here is safe."""
        self._turn(self._kind)
        self._marks[step] = self.seconds[STEP]

    def spent(self, *kinds: str) -> float:
        """Seconds of these kinds so far."""
        self._turn(self._kind)
        return sum(self.seconds.get(kind, 0.0) for kind in kinds)

    @property
    def goodput(self) -> float:
        """Share of the wall time since `began` that is "step", 0..1."""
        steps = self.spent(STEP)
        wall = self._since - self.began
        return min(steps / wall, 1.0) if wall > 0 else 1.0

    def save(self, *, now: bool = True, done: bool = False) -> None:
        """Writes it; not now means at most once in ten seconds.

        Raises:
          UserError: where the disk is full.
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

    def _turn(self, kind: str) -> None:
        """What passed since the last turn belongs to the kind until now."""
        now = self._clock()
        self._add(self._kind, now - self._since)
        self._kind, self._since = kind, now

    def _add(self, kind: str, seconds: float) -> None:
        if seconds > 0:  # a clock that was set back takes nothing away
            self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds


def _read(path: Path | None) -> dict:
    """What an earlier process left; empty where there is nothing to read."""
    try:
        stored = json.loads(path.read_text()) if path else {}
        return stored if {"began", "written", "seconds"} <= set(stored) else {}
    except (OSError, ValueError, TypeError):
        return {}
