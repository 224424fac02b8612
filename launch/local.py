"""Runs of a sweep on this machine, some at once, in the foreground.

    i2i-prior sweep submit SWEEP --backend local:slots=2

Each slot has its own share of the processors and GPUs. A run that fails goes
to the back of the queue, as often as it may; the others go on. Ctrl-C or TERM
has all runs save, and ends with 75: the same command continues them. A second
one hands its runs to the first.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from ml_collections import ConfigDict

from i2i_prior.errors import UserError
from i2i_prior.sweeps.launchers import engines
from i2i_prior.sweeps.launchers.slots import Slot, find_gpus, make_slots
from i2i_prior.sweeps.pool_view import View
from i2i_prior.sweeps.run import events, lock, outcome
from i2i_prior.sweeps.run.progress import read_progress
from i2i_prior.sweeps.run.state import ENDED, WAITING, RunState, states
from i2i_prior.sweeps.run.store import PlannedRun, Sweep, open_sweep
from i2i_prior.sweeps.submit import counts
from i2i_prior.training.resilience.restarts import caught, with_parent

OPTIONS = {
    "slots": 0,  # runs at once; 0: one a GPU, else one
    "backoff": 10.0,  # seconds before the first retry of a run; then doubled
}
LOCK = "local.lock"
_LONGEST = 300.0  # seconds of backoff
_TICK, _LOOK = 0.2, 2.0  # seconds
_ODD = 3  # ends of attempts with a code that they do not give


def submit(
    sweep: Sweep, runs: list[PlannedRun], options: ConfigDict, dry_run: bool
) -> int:
    """Runs them to their ends: 0, 1 where one failed, 75 where stopped."""
    if options.backoff < 0:
        raise UserError(f"backoff={options.backoff:g}; give 0 or more seconds")
    slots = make_slots(options.slots, find_gpus())
    if dry_run:
        print(f"{len(slots)} at once: {'; '.join(map(str, slots))}")
        for run in runs:
            print(shlex.join(sweep.attempt_command(run.id)))
        return 0
    for run in runs:
        engines.submitted(sweep, run, "local", "")
    held = lock.take(sweep.path / LOCK)
    if held is None:
        os.utime(sweep.path / LOCK)  # so it looks, see `Pool`
        who = lock.holder(sweep.path / LOCK)
        if lock.leaving(sweep.path / LOCK):
            print(f"{who} is stopping; submit again when it has ended")
            return outcome.AGAIN
        print(f"{who} runs this sweep already, and takes them up")
        return 0
    try:
        return Pool(sweep, runs, slots, options.backoff).work()
    finally:
        os.close(held)


def poll(
    sweep: Sweep, runs: list[PlannedRun], options: ConfigDict
) -> dict[str, str]:
    """ "gone" where no launcher is at the sweep."""
    gone = lock.held(sweep.path / LOCK) is False
    return {run.id: "gone" for run in runs} if gone else {}


def cancel(sweep: Sweep, runs: list[PlannedRun], options: ConfigDict) -> None:
    """Nothing: an attempt reads in the run's events that it is cancelled."""


@dataclass
class _Active:
    run: PlannedRun
    slot: Slot
    process: subprocess.Popen


class Pool:
    """Runs in slots, until none is left or a signal comes."""

    def __init__(
        self,
        sweep: Sweep,
        runs: list[PlannedRun],
        slots: list[Slot],
        backoff: float,
    ) -> None:
        self._sweep, self._backoff = sweep, backoff
        self._free = list(slots)
        # (when it may start, run): in the order of the plan, then of failing.
        self._queue: list[tuple[float, PlannedRun]] = [(0.0, r) for r in runs]
        self._active: list[_Active] = []
        self._ends: dict[str, RunState] = {}
        self._starts: Counter[str] = Counter()
        self._odd: Counter[str] = Counter()
        self._retried: Counter[str] = Counter()  # retries when it was started
        self._asked = self._mark()
        self._view = View(len(runs))

    def work(self) -> int:
        """See `submit`."""
        children: list[subprocess.Popen] = []
        looked = 0.0
        with caught(children) as came:
            while self._active or (self._queue and not came):
                if not came:
                    self._take_up()
                    self._start(children)
                elif not lock.leaving(self._sweep.path / LOCK):
                    lock.leave(self._sweep.path / LOCK)
                self._reap(children)
                if time.monotonic() - looked > _LOOK:
                    looked = time.monotonic()
                    self._view.show(self._picture(), bool(came))
                time.sleep(_TICK)
        self._view.show(self._picture(), bool(came))
        self._view.close()
        ends = list(self._ends.values())
        if came:
            self._view.say(
                f"stopped; {counts(ends) or 'none ended'}, "
                f"{self._view.total - len(ends)} to go: the same command "
                "continues them"
            )
            return outcome.AGAIN
        self._view.say(f"{self._sweep.facts['name']}: {counts(ends)}")
        return int(any(state.state == "failed" for state in ends))

    def _mark(self) -> float:
        """Changed by another submit that found the sweep locked."""
        with contextlib.suppress(OSError):
            return (self._sweep.path / LOCK).stat().st_mtime
        return 0.0

    def _take_up(self) -> None:
        if (mark := self._mark()) == self._asked:
            return
        self._asked = mark
        self._sweep = open_sweep(self._sweep.path)
        ours = {run.id for _, run in self._queue}
        ours |= {active.run.id for active in self._active}
        for state in states(self._sweep):
            mine = state.backend == "local" and state.state in WAITING
            if mine and state.run.id not in ours:
                self._view.total += state.run.id not in self._ends
                self._ends.pop(state.run.id, None)
                self._queue.append((0.0, state.run))

    def _start(self, children: list[subprocess.Popen]) -> None:
        now = time.monotonic()
        for entry in list(self._queue):
            if not self._free:
                return
            when, run = entry
            if when > now:
                continue
            self._queue.remove(entry)
            active = self._started(run, self._free.pop(0))
            children.append(active.process)
            self._active.append(active)

    def _retries(self, run: PlannedRun) -> int:
        """How often a person has asked for another try."""
        known = events.read(self._sweep.attempts(run.id))
        return sum(event["event"] == "retried" for event in known)

    def _started(self, run: PlannedRun, slot: Slot) -> _Active:
        self._retried[run.id] = self._retries(run)
        everything = os.sched_getaffinity(0)
        with _words(self._sweep.attempts(run.id)) as words:
            # Inherited from the start, before it has threads or children.
            os.sched_setaffinity(0, slot.cpus)
            try:
                process = subprocess.Popen(
                    with_parent(self._sweep.attempt_command(run.id)),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,  # it is in its log
                    stderr=words,
                    env={**os.environ, **slot.environment},
                    process_group=0,
                )
            finally:
                os.sched_setaffinity(0, everything)
        return _Active(run, slot, process)

    def _reap(self, children: list[subprocess.Popen]) -> None:
        for active in list(self._active):
            code = active.process.poll()
            if code is None:
                continue
            self._active.remove(active)
            children.remove(active.process)
            self._free.append(active.slot)
            self._ended(active.run, code)

    def _ended(self, run: PlannedRun, code: int) -> None:
        if self._retries(run) > self._retried[run.id]:
            # A person saw the end in the files before it was seen here.
            self._queue.append((0.0, run))
            return
        (state,) = states(replace(self._sweep, runs=[run]))
        self._starts[run.id] += 1
        # As of one that was killed: its events say nothing of it yet.
        odd = code not in (
            outcome.DONE,
            outcome.MISTAKE,
            outcome.DIVERGED,
            outcome.AGAIN,
        )
        self._odd[run.id] += odd
        # A signal may come between a trainer's last word and its end.
        over = state.state in ENDED
        again = code == outcome.AGAIN or (odd and self._odd[run.id] < _ODD)
        if again and not over:
            starts = self._starts[run.id]
            wait = min(self._backoff * 2 ** (starts - 1), _LONGEST)
            self._queue.append((time.monotonic() + wait, run))
            self._view.say(
                f"{run.name}: {state.state} "
                f"({state.cause or f'exit code {code}'}), attempt "
                f"{state.attempts}"
            )
            return
        if not over and state.state != "cancelled":
            file = self._sweep.attempts(run.id) / "local.txt"
            cause = state.cause or outcome.tail_cause(file)
            cause = cause or f"exit code {code}"
            state = replace(state, state="failed", cause=cause)
        self._ends[run.id] = state
        metric = state.progress.metric if state.state == "done" else None
        self._view.say(
            f"{run.name}: {state.state}"
            + (f" ({state.cause})" if state.cause else "")
            + (f", {metric:.4g}" if metric is not None else "")
            + f"; {len(self._ends)} of {self._view.total}"
        )

    def _picture(self) -> list[RunState]:
        """All that is not over, with how far it is."""
        metric = str(self._sweep.facts.get("metric", ""))
        running = [
            RunState(
                active.run,
                "running",
                progress=read_progress(
                    self._sweep.workdir(active.run.id), metric
                ),
            )
            for active in self._active
        ]
        return [*running, *(RunState(run, "queued") for _, run in self._queue)]


def _words(folder: Path) -> contextlib.AbstractContextManager:
    """Where an attempt says what is in no log: here, if it cannot be kept."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / "local.txt").open("ab")
    except OSError:
        return contextlib.nullcontext()
