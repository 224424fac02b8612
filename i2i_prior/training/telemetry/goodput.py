"""Goodput, throughput and MFU: wall time of a run by kind, and rates.

`goodput.json` in the run directory outlives restarts, so that time in which
no process ran and steps that were repeated count too. Goodput is the share
of time spent in steps that were kept ("ML Productivity Goodput",
cloud.google.com/blog, 2024).
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from i2i_prior.checkpoint.run_dir import write_json
from i2i_prior.io.files import read_json_or_empty
from i2i_prior.parallel.chips import PEAK_FLOPS

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

    The kind is "start" at first, "step" after `begin`. Besides `KINDS` there
    are those of the callers: compile, checkpoint, eval, profile. Time in a
    `timed` within another one is booked on the outer one.

    The file is kept at `path`, None on other hosts; `clock` has Unix seconds.
    """

    def __init__(
        self, path: Path | None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._path, self._clock = path, clock
        self._kind, self._since = START, clock()
        self._written = 0.0
        stored = _read(path)
        self.began: float = stored.get("began", self._since)
        self.seconds: dict[str, float] = {STEP: 0.0} | stored.get("seconds", {})
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
        """Writes the file; without `now` at most once in ten seconds."""
        if self._path is None:
            return
        goodput = self.goodput
        if not now and self._since - self._written < _WRITE_SECONDS:
            return
        self._written = self._since
        document = {
            "goodput": round(goodput, 4),
            "seconds": self.seconds,
            "began": self.began,
            "written": self._since,
            "done": done,
            "marks": self._marks,
        }
        write_json(self._path, document)

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
    stored = read_json_or_empty(path) if path else {}
    if not {"began", "written", "seconds"} <= set(stored):
        return {}
    try:
        return stored | {"seconds": merge_kinds(stored["seconds"])}
    except (TypeError, AttributeError):
        return {}


def peak_flops(device_kind: str) -> float | None:
    """Peak bf16 FLOP/s of `jax.Device.device_kind`; None where unknown.

    The longest name of PEAK_FLOPS that occurs in `device_kind` as whole words
    counts, so "NVIDIA L40S" is not an L4 and "TPU v5 lite" not a v5p.
    """
    for name in sorted(PEAK_FLOPS, key=len, reverse=True):
        if re.search(rf"\b{re.escape(name)}\b", device_kind, re.IGNORECASE):
            return PEAK_FLOPS[name]
    return None


def mfu(
    flops_per_step: float, steps_per_second: float, devices: int, kind: str
) -> float | None:
    """Model FLOPs utilisation in 0..1; None where the peak is unknown (CPU).

    `flops_per_step` counts what the model needs for the global batch, not
    what remat computes again (Chowdhery et al. 2022, "PaLM", appendix B).
    """
    peak = peak_flops(kind)
    return peak and flops_per_step * steps_per_second / (devices * peak)


class Throughput:
    """Rates over windows of steps, without the pauses between them.

    Seconds of steps and of waits for data count, those of compiling and
    checkpoints do not. Steps are dispatched ahead of the device: call
    `window` after something has waited for it, as reading the loss does.
    """

    def __init__(
        self, examples_per_step: int, timer: GoodputTimer, step: int = 0
    ) -> None:
        self._examples_per_step, self._timer = examples_per_step, timer
        self.restart(step)

    def restart(self, step: int) -> None:
        """Begins the window here."""
        self._step = step
        self._training = self._timer.spent(STEP)
        self._waiting = self._timer.spent(DATA_WAIT)

    def window(self, step: int) -> dict[str, float]:
        """Returns steps_per_second and examples_per_second since the last call.

        Also `data_wait`, the seconds of the window in which the loop waited
        for a batch, and `goodput`, 0 to 1. The next window begins here.
        """
        waited = self._timer.spent(DATA_WAIT) - self._waiting
        busy = self._timer.spent(STEP) - self._training + waited
        rate = (step - self._step) / max(busy, 1e-9)
        self.restart(step)
        return {
            "steps_per_second": rate,
            "examples_per_second": rate * self._examples_per_step,
            "data_wait": waited,
            "goodput": self._timer.goodput,
        }
