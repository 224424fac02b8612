"""State of each run of a sweep, from its files alone.

States:

    planned     not submitted (or submitted before a retry)
    queued      submitted, or saved on a signal; an engine is to start it
    running     being trained
    retrying    failed; an engine is to start it again
    done        trained to its last step
    diverged    its loss is not finite: a point of the sweep, too
    failed      for good: a mistake, or too many failures
    cancelled   by a person, until a retry
    stopped     started, and no process trains it; submit continues it
"""

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from i2i_prior.io import locks
from i2i_prior.io.files import read_json_or_empty
from i2i_prior.sweeps.backends import Launch, load_backend, read_launch
from i2i_prior.sweeps.run import events
from i2i_prior.sweeps.run.store import PlannedRun, Sweep

# Order of reports: trouble first.
STATES = (
    *("failed", "stopped", "retrying", "running", "queued", "planned"),
    *("diverged", "cancelled", "done"),
)
ENDED = ("done", "diverged")
OVER = (*ENDED, "failed", "cancelled")  # until a person asks for more
WAITING = ("queued", "retrying")  # for an engine
UNDER_WAY = (*WAITING, "running")
_DELAY = 300.0  # seconds after `hang_minutes` in which an end is noted
_READERS = 8  # threads: other machines' files have latency
# Enough for the last lines of any run, and for the validations of most.
_BLOCK = 256 * 1024
_FEW = 4096


@dataclass(frozen=True)
class Progress:
    """Last known numbers of a run; None for what is not logged yet."""

    step: int = 0  # the last update
    loss: float | None = None  # of training
    examples_per_second: float | None = None  # of the whole run
    metric: float | None = None  # the last value of the sweep's metric
    best: float | None = None  # its lowest value
    time: float | None = None  # Unix seconds of the last line


@dataclass(frozen=True)
class RunState:
    """State of a run."""

    run: PlannedRun
    state: str  # see the module docstring
    cause: str = ""  # why it does not go on as planned, in one line
    attempts: int = 0  # started since the last retry
    host: str = ""  # of the last attempt; "" before
    backend: str = ""  # that it was submitted to last; "" before
    job: str = ""  # the engine's name of it
    progress: Progress = field(default_factory=Progress)

    @property
    def fraction(self) -> float:
        """Fraction of the steps that is done, 0 to 1."""
        if self.state == "done":
            return 1.0
        return min(self.progress.step / self.run.steps, 1.0)

    @property
    def flops_per_second(self) -> float:
        """Training FLOP/s, as laws count FLOPs; 0 unless it is running."""
        rate = self.progress.examples_per_second
        if self.state != "running" or not rate:
            return 0.0
        return rate * self.run.flops / self.run.examples

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds to the end of a running run; None if unknown."""
        if not self.flops_per_second:
            return None
        return (1 - self.fraction) * self.run.flops / self.flops_per_second


def states(sweep: Sweep, launch: Launch | None = None) -> list[RunState]:
    """Reads the states of all runs of a sweep, in the order of the plan.

    `launch` are its launch settings, None for those of its launch.json; a
    broken one raises UserError.
    """
    launch = launch or read_launch(sweep)
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda run: state_of(sweep, run, launch), sweep.runs)
        return list(found)


def state_of(
    sweep: Sweep, run: PlannedRun, launch: Launch | None = None
) -> RunState:
    """Reads the state of one run."""
    known = events.read(sweep.attempts(run.id))
    ended = result(sweep, run)
    if not known and not ended:
        return RunState(run, "planned")
    launch = launch or read_launch(sweep)
    last: dict[str, Mapping[str, Any]] = {each["event"]: each for each in known}
    submitted, started = last.get("submitted", {}), last.get("started", {})
    progress = read_progress(sweep.workdir(run.id), sweep.metric)
    if isinstance(metrics := ended.get("metrics"), dict):
        step = ended.get("step", progress.step)
        metric = metrics.get(sweep.metric, progress.metric)
        progress = replace(progress, step=step, metric=metric)
    return RunState(
        run,
        *_state_and_cause(sweep, run, known, ended, launch),
        attempts=events.count(events.since_retry(known), "started"),
        host=str(started.get("host", "")),
        backend=str(submitted.get("backend", "")),
        job=str(submitted.get("job", "")),
        progress=progress,
    )


def poll_states(
    sweep: Sweep, launch: Launch | None = None
) -> tuple[list[RunState], list[str]]:
    """Reads the states of all runs from files, and asks their engines.

    Returns the states, and a message for each engine that did not answer.
    """
    launch = launch or read_launch(sweep)
    found = states(sweep, launch)
    hints: dict[str, str] = {}
    messages = []
    for name, spec in launch.backends.items():
        runs = [
            state.run
            for state in found
            if state.backend == name and state.state in UNDER_WAY
        ]
        try:
            hints |= load_backend(spec).poll(sweep, runs) if runs else {}
        except Exception as error:  # a launch file is a program
            messages.append(f"{name} was not asked, only files ({error})")
    gone = [run for run in sweep.runs if hints.get(run.id) == "gone"]
    # They may have ended after their files were read.
    again = states(replace(sweep, runs=gone), launch)
    newer = {state.run.id: state for state in again}
    found = [newer.get(state.run.id, state) for state in found]
    return with_hints(found, hints), messages


def with_hints(
    found: Sequence[RunState], hints: Mapping[str, str]
) -> list[RunState]:
    """Corrects states that files leave open by `hints`, see `backends`."""
    return [
        replace(
            state, state="stopped", cause=state.cause or "its launcher is gone"
        )
        if state.state in UNDER_WAY and hints.get(state.run.id) == "gone"
        else state
        for state in found
    ]


def by_count(found: Sequence[RunState]) -> dict[str, int]:
    """Number of runs in each of `STATES`."""
    return {name: sum(one.state == name for one in found) for name in STATES}


def counts(found: Sequence[RunState]) -> str:
    """Formats the number of runs in each state: "2 failed, 12 done"."""
    each = by_count(found).items()
    return ", ".join(f"{number} {name}" for name, number in each if number)


def result(sweep: Sweep, run: PlannedRun) -> dict[str, Any]:
    """Reads the trainer's result.json; empty unless the run has ended."""
    found = read_json_or_empty(sweep.workdir(run.id) / "result.json")
    ended = found.get("outcome") in ENDED and found.get("steps") == run.steps
    return found if ended else {}


def seconds_left(found: Sequence[RunState]) -> float | None:
    """Estimated seconds to the end of all runs, at the present speed; None
    where no run is running."""
    rate = sum(state.flops_per_second for state in found)
    if not rate:
        return None
    waiting = [state for state in found if state.state not in OVER]
    left = sum((1 - state.fraction) * state.run.flops for state in waiting)
    slowest = max(state.seconds_left or 0.0 for state in found)
    return max(left / rate, slowest)


def read_progress(workdir: Path, metric: str) -> Progress:
    """Reads a run's last 256 KB of metrics.jsonl; whole lines alone count.

    `metric` is a key of its lines; lower is better.
    """
    try:
        with (workdir / "metrics.jsonl").open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _BLOCK))
            block = file.read()
    except OSError:
        return Progress()
    block = block[: block.rfind(b"\n") + 1]
    last: dict[str, float] = {}
    # Newest first; a line may be cut off by the block.
    for line in reversed(block[-_FEW:].splitlines()):
        with contextlib.suppress(ValueError, TypeError):
            last = json.loads(line) | last
    pattern = re.escape(json.dumps(metric)).encode() + rb": ([-+.\deE]+)"
    found = [float(text) for text in re.findall(pattern, block)]
    return Progress(
        step=int(last.get("step", 0)),
        loss=last.get("loss"),
        examples_per_second=last.get("examples_per_second"),
        metric=found[-1] if found else None,
        best=min(found, default=None),
        time=last.get("time"),
    )


def _state_and_cause(
    sweep: Sweep,
    run: PlannedRun,
    known: Sequence[Mapping[str, Any]],
    ended: Mapping[str, Any],
    launch: Launch,
) -> tuple[str, str]:
    recent = events.since_retry(known)
    last: dict[str, Any] = {}
    end: dict[str, Any] = {}
    for event in recent:
        if event["event"] in ("submitted", "started", "ended"):
            last = event
        end = event if event["event"] == "ended" else end
    turn = last.get("event")
    cause = str(end.get("cause") or "")
    cancelled = events.count(recent, "cancelled") > 0
    if ended:
        diverged = ended["outcome"] == "diverged"
        return ended["outcome"], cause if diverged else ""
    if turn == "started" and _alive(sweep, run, last, launch):
        return "running", "cancelled, is saving" if cancelled else ""
    if cancelled:
        return "cancelled", ""
    if turn is None:
        return "planned", ""
    if turn == "started":
        return "stopped", f"no process on {last.get('host')} trains it any more"
    if turn == "submitted":  # perhaps again, after earlier attempts
        return "queued", cause
    if last.get("outcome") in ENDED:  # by a trainer that leaves no result
        if not sweep.workdir(run.id).is_dir():
            return "stopped", "its run directory was removed"
        return last["outcome"], cause
    if events.verdict(recent, launch.max_attempts) != events.AGAIN:
        return "failed", cause
    failed = last.get("outcome") in events.FAILURES
    return "retrying" if failed else "queued", cause


def _alive(
    sweep: Sweep, run: PlannedRun, started: Mapping[str, Any], launch: Launch
) -> bool:
    """Checks if a trainer runs, as far as this host can see."""
    folder = sweep.attempts(run.id)
    if started.get("host") == socket.gethostname():
        held = locks.is_held(sweep.run_lock(run.id))
        if held is not None:
            return held
    # On another host a live launcher ends an attempt that is silent so long.
    limit = 60 * launch.hang_minutes + _DELAY
    newest = 0.0
    for file in (
        folder / f"log-{started.get('attempt')}.txt",
        folder / events.FILE,
        sweep.workdir(run.id) / "metrics.jsonl",
    ):
        with contextlib.suppress(OSError):
            newest = max(newest, file.stat().st_mtime)
    return time.time() - newest < limit
