"""`i2i-prior sweep run SWEEP ID`: one attempt at a run, on each of its hosts.

Engines start this and know one rule: exit code 75 means start it again, any
other is final (0 done, 65 diverged, 1 given up, a mistake, or cancelled).
Why an attempt ended, and how often one may follow, is settled here for all of
them. Only the first process of a run writes events.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from i2i_prior.config import config_hash, frozen_config
from i2i_prior.distributed import cluster
from i2i_prior.errors import UserError
from i2i_prior.sweeps.launchers.base import Launch, read_launch
from i2i_prior.sweeps.run import child, events, lock, outcome
from i2i_prior.sweeps.run.state import result
from i2i_prior.sweeps.run.store import PlannedRun, Sweep, open_sweep

# Seconds for an attempt before this one, whose launcher was killed, to save.
_LET_GO = child.ASKED_GRACE + 60.0
_WORD = 30.0  # seconds for the first process to say how the attempt ended


def run(options: argparse.Namespace) -> int:
    """`i2i-prior sweep run`."""
    sweep = open_sweep(options.sweep)
    planned = sweep.run(options.run)
    here = cluster.detect(os.environ)
    if here is not None and here.process_id > 0:
        return follow(sweep, planned, here.process_id)
    return attempt(sweep, planned, several=here is not None)


def attempt(
    sweep: Sweep,
    planned: PlannedRun,
    *,
    several: bool = False,
    let_go: float = _LET_GO,
    hung_grace: float = child.HUNG_GRACE,
) -> int:
    """One attempt, as the first or only process of a run.

    Args:
      sweep: whose run it is.
      planned: the run.
      several: whether the run has more processes, which `follow`.
      let_go: seconds for whoever is at the run to end.
      hung_grace: seconds that a run which hangs has to save.

    Returns:
      the exit code for the engine.

    Raises:
      UserError: where another process is at the run.
    """
    folder = sweep.attempts(planned.id)
    held = lock.take(folder / lock.RUN)
    if held is None:
        who = lock.holder(folder / lock.RUN)
        _say(f"waiting for {who} to leave {planned.id}, {let_go:g} s at most")
        held = lock.take(folder / lock.RUN, let_go)
    if held is None:
        raise UserError(
            f"{planned.id} is being trained by {who}; see i2i-prior sweep "
            f"status {sweep.quoted}"
        )
    try:
        launch = read_launch(sweep)
        before = events.read(folder)
        settled = _settle(sweep, planned, before, launch)
        if settled is not None:
            return settled
        number = _starts(before) + 1
        log = folder / f"log-{number}.txt"
        # A machine that went down in the middle may have left one.
        log.unlink(missing_ok=True)
        began = time.monotonic()
        _note(
            folder,
            "started",
            attempt=number,
            host=socket.gethostname(),
            pid=os.getpid(),
            job=os.environ.get("SLURM_JOB_ID", ""),
        )
        ended = child.run(
            [*sweep.train_command(planned.id), "--restarts", "0"],
            log,
            sweep.workdir(planned.id) / "metrics.jsonl",
            hang_seconds=60 * launch.hang_minutes,
            hung_grace=hung_grace,
            unwanted=_Cancelled(folder),
            keep=[held],
            folder=_home(sweep),
        )
        how, cause = outcome.classify(
            ended.code,
            log,
            asked=ended.asked,
            hung=ended.hung,
            several=several,
        )
        end = {
            "attempt": number,
            "code": ended.code,
            "outcome": how,
            "cause": cause,
            "seconds": round(time.monotonic() - began, 1),
        }
        known = [*events.read(folder), {"event": "ended", **end}]
        noted = _note(folder, "ended", **end)
    finally:
        os.close(held)
    code = outcome.verdict(known, launch.max_attempts)
    if code == outcome.AGAIN and how in outcome.FAILURES and not noted:
        code = outcome.FULL_DISK  # not counted, it could fail for ever
    _tell(planned, end, code)
    return code


def follow(sweep: Sweep, planned: PlannedRun, number: int) -> int:
    """Another process of a run of several: it trains, and writes its log.

    Args:
      sweep: whose run it is.
      planned: the run.
      number: of the process, from 1.
    """
    folder = sweep.attempts(planned.id)
    folder.mkdir(parents=True, exist_ok=True)
    launch = read_launch(sweep)
    began = time.time()
    count = len(list(folder.glob(f"log-*.host{number}.txt")))
    log = folder / f"log-{count + 1}.host{number}.txt"
    ended = child.run(
        [*sweep.train_command(planned.id), "--restarts", "0"],
        log,
        sweep.workdir(planned.id) / "metrics.jsonl",
        hang_seconds=60 * launch.hang_minutes,
        folder=_home(sweep),
    )
    if ended.code in (outcome.DONE, outcome.DIVERGED):
        return ended.code
    due = time.monotonic() + _WORD
    while time.monotonic() < due:
        known = events.read(folder)
        # Clocks of two hosts differ a little; attempts take longer.
        late = [e for e in known if e.get("time", 0.0) > began - 1]
        if any(event["event"] == "ended" for event in late):
            return outcome.verdict(known, launch.max_attempts)
        time.sleep(0.5)
    return outcome.AGAIN


def _home(sweep: Sweep) -> Path | None:
    """Where the sweep was planned, if that is here: what its configs name by
    relative paths is found from there."""
    home = Path(sweep.facts.get("cwd", ""))
    return home if home.is_absolute() and home.is_dir() else None


class _Cancelled:
    """Whether somebody has cancelled the run; reads what is new only."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._size = folder, -1

    def __call__(self) -> bool:
        try:
            size = (self._folder / events.FILE).stat().st_size
        except OSError:
            return False
        if size == self._size:
            return False
        self._size = size
        recent = outcome.since_retry(events.read(self._folder))
        return any(event["event"] == "cancelled" for event in recent)


def _settle(
    sweep: Sweep,
    planned: PlannedRun,
    before: list[dict[str, Any]],
    launch: Launch,
) -> int | None:
    """The exit code where there is nothing to do; closes a lost attempt."""
    folder = sweep.attempts(planned.id)
    if before and _open(before) is not None:
        lost = {
            "attempt": _open(before),
            "code": None,
            "outcome": "lost",
            "cause": "its machine or launcher died",
            "seconds": None,
        }
        before.append({"event": "ended", **lost})
        _note(folder, "ended", **lost)
    found = result(sweep, planned)
    if found:
        config = frozen_config(sweep.config(planned.id))
        if found.get("config_hash") == config_hash(config):
            _say(f"{planned.id} is {found['outcome']} already")
            done = found["outcome"] == "done"
            return outcome.DONE if done else outcome.DIVERGED
    code = outcome.verdict(before, launch.max_attempts)
    if code == outcome.MISTAKE:
        _say(
            f"error: {planned.id} was given up or cancelled; to try again: "
            f"i2i-prior sweep retry {sweep.quoted} --ids {planned.id}"
        )
        return code
    return None


def _open(known: list[dict[str, Any]]) -> int | None:
    """The attempt that has started and not ended, if any."""
    number = None
    for event in known:
        if event["event"] == "started":
            number = event.get("attempt", 0)
        elif event["event"] == "ended":
            number = None
    return number


def _starts(known: list[dict[str, Any]]) -> int:
    return sum(event["event"] == "started" for event in known)


def _note(folder: Path, event: str, **facts: Any) -> bool:
    """Whether an event could be added: a full disk must not end a training."""
    try:
        events.append(folder, event, **facts)
    except UserError as error:
        _say(str(error))
        return False
    return True


def _tell(planned: PlannedRun, end: Mapping[str, Any], code: int) -> None:
    cause = f" ({end['cause']})" if end["cause"] else ""
    then = {outcome.AGAIN: "; it may be started again"}.get(code, "")
    if code in (outcome.MISTAKE, outcome.FULL_DISK):
        then = "; it is not started again"
    _say(
        f"{planned.id}, attempt {end['attempt']}: {end['outcome']}{cause}{then}"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
