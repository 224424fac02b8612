"""Runs of a sweep on this machine, several at once, in the foreground.

    i2i-prior sweep submit SWEEP --backend local:slots=2

Each slot has its own share of the processors and GPUs. A run that fails goes
to the end of the queue, as often as it may; the others go on. On Ctrl-C or
TERM all runs save, and the exit code is 75: the same command continues them. A
second launcher hands its runs to the first.
"""

import contextlib
import os
import shlex
import subprocess
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from ml_collections import ConfigDict

from i2i_prior.errors import UserError
from i2i_prior.io import locks
from i2i_prior.io.child_process import ChildProcess, forwarded_signals
from i2i_prior.io.log_tail import tail_cause
from i2i_prior.sweeps.launch_support import engines
from i2i_prior.sweeps.launch_support.pool_display import PoolDisplay
from i2i_prior.sweeps.launch_support.slots import Slot, find_gpus, make_slots
from i2i_prior.sweeps.run import events
from i2i_prior.sweeps.run.state import (
    ENDED,
    WAITING,
    RunState,
    counts,
    read_progress,
    state_of,
    states,
)
from i2i_prior.sweeps.run.store import PlannedRun, Sweep, open_sweep

OPTIONS = {
    "slots": 0,  # runs at once; 0: one a GPU, else one
    "backoff": 10.0,  # seconds before the first retry of a run; then doubled
}
LOCK = "local.lock"
_LONGEST = 300.0  # seconds of backoff
_TICK, _REFRESH = 0.2, 2.0  # seconds between checks, between displays
# Ends of attempts without an exit code of `sweep run` until a run is given up.
_MAX_UNKNOWN = 3
# Exit codes of `sweep run` that say how an attempt ended.
_CODES = events.DONE, events.MISTAKE, events.DIVERGED, events.AGAIN


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
        engines.note_submitted(sweep, run, "local", "")
    lock = sweep.path / LOCK
    held = locks.acquire(lock)
    if held is None:
        os.utime(lock)  # tells it to look for runs, see `Pool`
        who = locks.holder(lock)
        if locks.is_leaving(lock):
            print(f"{who} is stopping; submit again when it has ended")
            return events.AGAIN
        print(f"{who} runs this sweep already, and takes them up")
        return 0
    try:
        return Pool(sweep, runs, slots, options.backoff).work()
    finally:
        os.close(held)


def poll(
    sweep: Sweep, runs: list[PlannedRun], options: ConfigDict
) -> dict[str, str]:
    """Returns "gone" for all runs where no launcher runs the sweep."""
    gone = locks.is_held(sweep.path / LOCK) is False
    return {run.id: "gone" for run in runs} if gone else {}


def cancel(sweep: Sweep, runs: list[PlannedRun], options: ConfigDict) -> None:
    """Does nothing: attempts find the cancellation in the run's events."""


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
        # (earliest start, run), in the order of the plan, then of failures.
        self._queue: list[tuple[float, PlannedRun]] = [(0.0, r) for r in runs]
        self._active: dict[ChildProcess, tuple[PlannedRun, Slot]] = {}
        self._ends: dict[str, RunState] = {}
        self._starts: Counter[str] = Counter()
        self._unknown: Counter[str] = Counter()  # see `_MAX_UNKNOWN`
        self._retries: dict[str, int] = {}  # at the start of an attempt
        self._request = self._request_time()
        self._display = PoolDisplay(len(runs))

    def work(self) -> int:
        """Runs all of them; returns the exit code of `submit`."""
        lock, shown = self._sweep.path / LOCK, 0.0
        with forwarded_signals(self._active) as received:
            while self._active or (self._queue and not received):
                if not received:
                    self._accept_requests()
                    self._start_due()
                elif not locks.is_leaving(lock):
                    locks.announce_leaving(lock)
                self._reap()
                if time.monotonic() - shown > _REFRESH:
                    shown = time.monotonic()
                    self._display.update(self._unended(), bool(received))
                time.sleep(_TICK)
        self._display.update(self._unended(), bool(received))
        self._display.close()
        ends = list(self._ends.values())
        if received:
            self._display.write(
                f"stopped; {counts(ends) or 'none ended'}, "
                f"{self._display.total - len(ends)} to go: the same command "
                "continues them"
            )
            return events.AGAIN
        self._display.write(f"{self._sweep.name}: {counts(ends)}")
        return int(any(state.state == "failed" for state in ends))

    def _request_time(self) -> float:
        """Time of the lock, which a second `submit` changes."""
        with contextlib.suppress(OSError):
            return (self._sweep.path / LOCK).stat().st_mtime
        return 0.0

    def _accept_requests(self) -> None:
        """Queues runs that another `submit` has submitted since."""
        if (request := self._request_time()) == self._request:
            return
        self._request = request
        self._sweep = open_sweep(self._sweep.path)
        known = {run.id for _, run in self._queue}
        known |= {run.id for run, _ in self._active.values()}
        for state in states(self._sweep):
            due = state.backend == "local" and state.state in WAITING
            if due and state.run.id not in known:
                self._display.total += state.run.id not in self._ends
                self._ends.pop(state.run.id, None)
                self._queue.append((0.0, state.run))

    def _start_due(self) -> None:
        now = time.monotonic()
        for entry in list(self._queue):
            due, run = entry
            if self._free and due <= now:
                self._queue.remove(entry)
                slot = self._free.pop(0)
                self._active[self._start(run, slot)] = run, slot

    def _start(self, run: PlannedRun, slot: Slot) -> ChildProcess:
        self._retries[run.id] = self._count_retries(run)
        all_cpus = os.sched_getaffinity(0)
        with _open_errors(_errors_file(self._sweep, run)) as errors:
            # Inherited from the start, before it has threads or children.
            os.sched_setaffinity(0, slot.cpus)
            try:
                return ChildProcess(
                    self._sweep.attempt_command(run.id),
                    stdout=subprocess.DEVNULL,  # it is in the run's log
                    stderr=errors,
                    env={**os.environ, **slot.environment},
                )
            finally:
                os.sched_setaffinity(0, all_cpus)

    def _count_retries(self, run: PlannedRun) -> int:
        return events.count(
            events.read(self._sweep.attempts(run.id)), "retried"
        )

    def _reap(self) -> None:
        for child in [child for child in self._active if child.ended()]:
            run, slot = self._active.pop(child)
            self._free.append(slot)
            self._finish_attempt(run, child.kill())

    def _finish_attempt(self, run: PlannedRun, code: int) -> None:
        """Queues a run again, or notes its end."""
        if self._count_retries(run) > self._retries[run.id]:
            # A person saw the end in the files before it was seen here.
            self._queue.append((0.0, run))
            return
        state = state_of(self._sweep, run)
        self._starts[run.id] += 1
        # An attempt that was killed: its events do not have its end yet.
        unknown = code not in _CODES
        self._unknown[run.id] += unknown
        # A signal may come after the trainer has written its result.
        over = state.state in ENDED
        again = code == events.AGAIN or (
            unknown and self._unknown[run.id] < _MAX_UNKNOWN
        )
        if again and not over:
            wait = min(
                self._backoff * 2 ** (self._starts[run.id] - 1), _LONGEST
            )
            self._queue.append((time.monotonic() + wait, run))
            self._display.write(
                f"{run.name}: {state.state} "
                f"({state.cause or f'exit code {code}'}), attempt "
                f"{state.attempts}"
            )
            return
        if not over and state.state != "cancelled":
            cause = state.cause or tail_cause(_errors_file(self._sweep, run))
            cause = cause or f"exit code {code}"
            state = replace(state, state="failed", cause=cause)
        self._ends[run.id] = state
        metric = state.progress.metric if state.state == "done" else None
        self._display.write(
            f"{run.name}: {state.state}"
            + (f" ({state.cause})" if state.cause else "")
            + (f", {metric:.4g}" if metric is not None else "")
            + f"; {len(self._ends)} of {self._display.total}"
        )

    def _unended(self) -> list[RunState]:
        """Active runs with their progress, then queued ones."""
        metric = self._sweep.metric
        running = [
            RunState(
                run,
                "running",
                progress=read_progress(self._sweep.workdir(run.id), metric),
            )
            for run, _ in self._active.values()
        ]
        return [*running, *(RunState(run, "queued") for _, run in self._queue)]


def _errors_file(sweep: Sweep, run: PlannedRun) -> Path:
    """Output of attempts that is in no log."""
    return sweep.attempts(run.id) / "local.txt"


def _open_errors(file: Path) -> contextlib.AbstractContextManager:
    """Opens a file of `_errors_file`; yields None where it is not writable."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return file.open("ab")
    except OSError:
        return contextlib.nullcontext()
