"""Where each run of a sweep stands, by its files alone.

States:

    planned     nobody was asked to start it (or it was, before a retry)
    queued      submitted, or saved on a signal; an engine is to start it
    running     a trainer is at it
    retrying    failed; an engine is to start it again
    done        to its last step
    diverged    its loss is no number any more: a point of the sweep, too
    failed      for good: a mistake, or too many failures
    cancelled   by a person, until a retry
    stopped     somebody should be at it, and nobody is; submit continues it
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from i2i_prior.sweeps.launchers.base import Launch, read_launch
from i2i_prior.sweeps.run import events, lock, outcome
from i2i_prior.sweeps.run.progress import Progress, read_progress
from i2i_prior.sweeps.run.store import PlannedRun, Sweep

# In the order in which a person wants to see them.
STATES = (
    *("failed", "stopped", "retrying", "running", "queued", "planned"),
    *("diverged", "cancelled", "done"),
)
ENDED = ("done", "diverged")
OVER = (*ENDED, "failed", "cancelled")  # until a person says otherwise
WAITING = ("queued", "retrying")  # for an engine
_LATE = 300.0  # seconds that an attempt may take to note that it hangs
_READERS = 8  # files of other machines take their time, not this one's


@dataclass(frozen=True)
class RunState:
    """A run, and where it stands.

    Attributes:
      run: as it was planned.
      state: see the module docstring.
      cause: one line: why it is not going on as planned; "" where it is.
      attempts: started since the last retry.
      host: of the last attempt; "" before.
      backend: that it was submitted to last, by name; "" before.
      job: the engine's name of it.
      progress: the last numbers.
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
    def share(self) -> float:
        """Of the run that is done, 0 to 1."""
        if self.state == "done":
            return 1.0
        return min(self.progress.step / self.run.steps, 1.0)

    @property
    def flops_per_second(self) -> float:
        """Training FLOPs, as the laws count them; 0 where it does not run."""
        rate = self.progress.examples_per_second
        if self.state != "running" or not rate:
            return 0.0
        return rate * self.run.flops / self.run.examples

    @property
    def seconds_left(self) -> float | None:
        """Of a run that runs; None where that is not known."""
        if not self.flops_per_second:
            return None
        return (1 - self.share) * self.run.flops / self.flops_per_second


def states(sweep: Sweep, launch: Launch | None = None) -> list[RunState]:
    """All runs of a sweep, in the order of the plan.

    Args:
      sweep: the sweep.
      launch: how it is started, else as its launch.json says.

    Raises:
      UserError: where launch.json is broken.
    """
    launch = launch or read_launch(sweep)
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda run: _state(sweep, run, launch), sweep.runs)
        return list(found)


def with_hints(
    found: Sequence[RunState], hints: Mapping[str, str]
) -> list[RunState]:
    """What an engine says of its runs, where the files leave it open.

    Args:
      found: of `states`.
      hints: id -> "queued", "running" or "gone", see `backends`.
    """

    def hinted(state: RunState) -> RunState:
        doubtful = state.state in (*WAITING, "running")
        if not doubtful or hints.get(state.run.id) != "gone":
            return state
        cause = state.cause or "its launcher is gone"
        return replace(state, state="stopped", cause=cause)

    return [hinted(state) for state in found]


def result(sweep: Sweep, run: PlannedRun) -> dict[str, Any]:
    """The trainer's result.json of a run that has ended; else empty."""
    try:
        text = (sweep.workdir(run.id) / "result.json").read_bytes()
        found = json.loads(text)
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict) or found.get("outcome") not in ENDED:
        return {}
    return found if found.get("steps") == run.steps else {}


def _state(sweep: Sweep, run: PlannedRun, launch: Launch) -> RunState:
    known = events.read(sweep.attempts(run.id))
    ended = result(sweep, run)
    if not known and not ended:
        return RunState(run, "planned")
    state, cause = _judge(sweep, run, known, ended, launch)
    submitted: Mapping[str, Any] = {}
    started: Mapping[str, Any] = {}
    for event in known:
        submitted = event if event["event"] == "submitted" else submitted
        started = event if event["event"] == "started" else started
    recent = outcome.since_retry(known)
    return RunState(
        run,
        state,
        cause,
        attempts=sum(event["event"] == "started" for event in recent),
        host=str(started.get("host", "")),
        backend=str(submitted.get("backend", "")),
        job=str(submitted.get("job", "")),
        progress=_progress(sweep, run, ended),
    )


def _progress(
    sweep: Sweep, run: PlannedRun, ended: Mapping[str, Any]
) -> Progress:
    metric = sweep.facts.get("metric", "validation/ema_uniform")
    found = read_progress(sweep.workdir(run.id), metric)
    metrics = ended.get("metrics")
    if isinstance(metrics, dict):
        value = metrics.get(metric, found.metric)
        found = replace(found, step=ended.get("step", found.step), metric=value)
    return found


def _judge(
    sweep: Sweep,
    run: PlannedRun,
    known: Sequence[Mapping[str, Any]],
    ended: Mapping[str, Any],
    launch: Launch,
) -> tuple[str, str]:
    """State and cause."""
    recent = outcome.since_retry(known)
    ends = [event for event in recent if event["event"] == "ended"]
    end: Mapping[str, Any] = ends[-1] if ends else {}
    cause = str(end.get("cause") or "")
    if ended:
        diverged = ended["outcome"] == "diverged"
        return ended["outcome"], cause if diverged else ""
    last = next((e for e in reversed(recent) if e["event"] in _TURNS), None)
    names = {event["event"] for event in recent}
    if last and last["event"] == "started" and _alive(sweep, run, last, launch):
        leaving = "cancelled" in names
        return "running", "cancelled, is saving" if leaving else ""
    if "cancelled" in names:
        return "cancelled", ""
    if last is None:
        return "planned", ""
    if last["event"] == "started":
        return "stopped", f"nobody is at it on {last.get('host')} any more"
    if last["event"] == "ended":
        if last.get("outcome") in ENDED:  # of a trainer that leaves no result
            if not sweep.workdir(run.id).is_dir():
                return "stopped", "its run directory was removed"
            return last["outcome"], cause
        code = outcome.verdict(recent, launch.max_attempts)
        if code != outcome.AGAIN:
            return "failed", cause
        again = end.get("outcome") in outcome.FAILURES
        return "retrying" if again else "queued", cause
    # Submitted, perhaps once more after earlier attempts.
    return "queued", cause


_TURNS = ("submitted", "started", "ended")


def _alive(
    sweep: Sweep, run: PlannedRun, started: Mapping[str, Any], launch: Launch
) -> bool:
    """Whether a trainer is still at a run, as far as can be told from here."""
    folder = sweep.attempts(run.id)
    if started.get("host") == socket.gethostname():
        held = lock.held(folder / lock.RUN)
        if held is not None:
            return held
    # Elsewhere: a launcher that lives ends an attempt that is silent so long.
    limit = 60 * launch.hang_minutes + _LATE
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


def seconds_left(found: Sequence[RunState]) -> float | None:
    """Until all runs have ended, at the speed of now; None where none runs."""
    rate = sum(state.flops_per_second for state in found)
    if not rate:
        return None
    waiting = [state for state in found if state.state not in OVER]
    left = sum((1 - state.share) * state.run.flops for state in waiting)
    slowest = max(state.seconds_left or 0.0 for state in found)
    return max(left / rate, slowest)
