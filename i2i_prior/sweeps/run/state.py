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

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from i2i_prior.io import locks
from i2i_prior.sweeps.launchers.base import Launch, load_backend, read_launch
from i2i_prior.sweeps.run import events, outcome
from i2i_prior.sweeps.run.progress import Progress, read_progress
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
_TURNS = ("submitted", "started", "ended")


@dataclass(frozen=True)
class RunState:
    """State of a run.

    Attributes:
      run: its plan.
      state: see the module docstring.
      cause: why it does not go on as planned, in one line; "" if it does.
      attempts: started since the last retry.
      host: of the last attempt; "" before.
      backend: name of the one it was submitted to last; "" before.
      job: the engine's name of it.
      progress: its last numbers.
    """

    run: PlannedRun
    state: str
    cause: str = ""
    attempts: int = 0
    host: str = ""
    backend: str = ""
    job: str = ""
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

    Args:
      sweep: the sweep.
      launch: its launch settings; None for those of its launch.json.

    Raises:
      UserError: launch.json is broken.
    """
    launch = launch or read_launch(sweep)
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda run: _state(sweep, run, launch), sweep.runs)
        return list(found)


def state_of(sweep: Sweep, run: PlannedRun) -> RunState:
    """Reads the state of one run."""
    return _state(sweep, run, read_launch(sweep))


def poll_states(
    sweep: Sweep, launch: Launch | None = None
) -> tuple[list[RunState], list[str]]:
    """Reads the states of all runs from files, and asks their engines.

    Returns:
      the states, and a message for each engine that did not answer.
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
        if not runs:
            continue
        try:
            hints |= load_backend(spec).poll(sweep, runs)
        except Exception as error:  # a launch file is a program
            messages.append(f"{name} was not asked, only files ({error})")
    gone = {name for name, hint in hints.items() if hint == "gone"}
    if gone:
        # They may have ended after their files were read.
        runs = [run for run in sweep.runs if run.id in gone]
        again = states(replace(sweep, runs=runs), launch)
        newer = {state.run.id: state for state in again}
        found = [newer.get(state.run.id, state) for state in found]
    return with_hints(found, hints), messages


def with_hints(
    found: Sequence[RunState], hints: Mapping[str, str]
) -> list[RunState]:
    """Corrects states that files leave open by what engines know.

    Args:
      found: of `states`.
      hints: id -> "queued", "running" or "gone", see `launchers.base`.
    """

    def corrected(state: RunState) -> RunState:
        if state.state not in UNDER_WAY or hints.get(state.run.id) != "gone":
            return state
        cause = state.cause or "its launcher is gone"
        return replace(state, state="stopped", cause=cause)

    return [corrected(state) for state in found]


def counts(found: Iterable[RunState]) -> str:
    """Formats the number of runs in each state: "2 failed, 12 done"."""
    each = Counter(state.state for state in found)
    return ", ".join(f"{each[s]} {s}" for s in STATES if each[s])


def result(sweep: Sweep, run: PlannedRun) -> dict[str, Any]:
    """Reads the trainer's result.json; empty unless the run has ended."""
    try:
        text = (sweep.workdir(run.id) / "result.json").read_bytes()
        found = json.loads(text)
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict) or found.get("outcome") not in ENDED:
        return {}
    return found if found.get("steps") == run.steps else {}


def seconds_left(found: Sequence[RunState]) -> float | None:
    """Estimated seconds to the end of all runs, at the present speed.

    Returns:
      None where no run is running.
    """
    rate = sum(state.flops_per_second for state in found)
    if not rate:
        return None
    waiting = [state for state in found if state.state not in OVER]
    left = sum((1 - state.fraction) * state.run.flops for state in waiting)
    slowest = max(state.seconds_left or 0.0 for state in found)
    return max(left / rate, slowest)


def _state(sweep: Sweep, run: PlannedRun, launch: Launch) -> RunState:
    known = events.read(sweep.attempts(run.id))
    ended = result(sweep, run)
    if not known and not ended:
        return RunState(run, "planned")
    state, cause = _state_and_cause(sweep, run, known, ended, launch)
    last: dict[str, Mapping[str, Any]] = {each["event"]: each for each in known}
    submitted, started = last.get("submitted", {}), last.get("started", {})
    return RunState(
        run,
        state,
        cause,
        attempts=events.count(outcome.since_retry(known), "started"),
        host=str(started.get("host", "")),
        backend=str(submitted.get("backend", "")),
        job=str(submitted.get("job", "")),
        progress=_progress(sweep, run, ended),
    )


def _progress(
    sweep: Sweep, run: PlannedRun, ended: Mapping[str, Any]
) -> Progress:
    found = read_progress(sweep.workdir(run.id), sweep.metric)
    metrics = ended.get("metrics")
    if isinstance(metrics, dict):
        value = metrics.get(sweep.metric, found.metric)
        found = replace(found, step=ended.get("step", found.step), metric=value)
    return found


def _state_and_cause(
    sweep: Sweep,
    run: PlannedRun,
    known: Sequence[Mapping[str, Any]],
    ended: Mapping[str, Any],
    launch: Launch,
) -> tuple[str, str]:
    recent = outcome.since_retry(known)
    last: dict[str, Any] = {}
    end: dict[str, Any] = {}
    for event in recent:
        last = event if event["event"] in _TURNS else last
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
    if outcome.verdict(recent, launch.max_attempts) != outcome.AGAIN:
        return "failed", cause
    failed = last.get("outcome") in outcome.FAILURES
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
    files = (
        folder / f"log-{started.get('attempt')}.txt",
        folder / events.FILE,
        sweep.workdir(run.id) / "metrics.jsonl",
    )
    newest = 0.0
    for file in files:
        try:
            newest = max(newest, file.stat().st_mtime)
        except OSError:
            continue
    return time.time() - newest < limit
