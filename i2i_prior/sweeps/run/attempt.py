"""`i2i-prior sweep run SWEEP ID`: one attempt at a run, on each of its hosts.

Engines start this and know one rule: exit code 75 means start it again, any
other is final (0 done, 65 diverged, 1 given up, a mistake, or cancelled).
Causes of ends and the number of attempts are decided here for all engines.
Only the first process of a run writes events.
"""

import argparse
import contextlib
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from i2i_prior.config import config_hash, frozen_config
from i2i_prior.distributed import cluster
from i2i_prior.errors import UserError
from i2i_prior.io import child_process, locks
from i2i_prior.sweeps.backends import Launch, read_launch
from i2i_prior.sweeps.run import events
from i2i_prior.sweeps.run.state import result
from i2i_prior.sweeps.run.store import PlannedRun, Sweep, open_sweep

# Seconds from SIGTERM to SIGKILL of a trainer that hangs, and of one that was
# asked to stop and may be saving much.
_HUNG_GRACE, _STOP_GRACE = 60.0, 600.0
# Seconds for the trainer of a killed launcher to save and release its lock.
_LOCK_TIMEOUT = _STOP_GRACE + 60.0
_END_TIMEOUT = 30.0  # seconds for the first process to note its end


def run(options: argparse.Namespace) -> int:
    """Runs `i2i-prior sweep run`: this process's part of an attempt."""
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
    lock_timeout: float = _LOCK_TIMEOUT,
    hung_grace: float = _HUNG_GRACE,
) -> int:
    """Runs one attempt as the first or only process of a run.

    `several` if the run has more processes, which `follow`. `lock_timeout` is
    in seconds, to wait for another process to leave the run, as is
    `hung_grace`, which a run that hangs has to save. Returns the exit code for
    the engine. UserError where another process trains the run.
    """
    folder, lock = sweep.attempts(planned.id), sweep.run_lock(planned.id)
    held = locks.acquire(lock)
    if held is None:
        who = locks.holder(lock)
        _report(
            f"waiting for {who} to leave {planned.id}, {lock_timeout:g} s at "
            "most"
        )
        held = locks.acquire(lock, lock_timeout)
    if held is None:
        raise UserError(
            f"{planned.id} is being trained by {who}; see i2i-prior sweep "
            f"status {sweep.quoted}"
        )
    try:
        launch = read_launch(sweep)
        before = events.read(folder)
        decided = _code_without_training(sweep, planned, before, launch)
        if decided is not None:
            return decided
        number = 1 + events.count(before, "started")
        log = folder / f"log-{number}.txt"
        # A machine that went down in the middle may have left one.
        log.unlink(missing_ok=True)
        began = time.monotonic()
        _append(
            folder,
            "started",
            attempt=number,
            host=socket.gethostname(),
            pid=os.getpid(),
            job=os.environ.get("SLURM_JOB_ID", ""),
        )
        ended = _train(
            sweep,
            planned,
            log,
            launch,
            hung_grace=hung_grace,
            cancelled=lambda: _is_cancelled(folder),
            pass_fds=[held],
        )
        how, cause = events.classify(ended, log, several=several)
        end = {
            "attempt": number,
            "code": ended.code,
            "outcome": how,
            "cause": cause,
            "seconds": round(time.monotonic() - began, 1),
        }
        known = [*events.read(folder), {"event": "ended", **end}]
        noted = _append(folder, "ended", **end)
    finally:
        os.close(held)
    code = events.verdict(known, launch.max_attempts)
    if code == events.AGAIN and how in events.FAILURES and not noted:
        code = events.FULL_DISK  # an uncounted failure could recur for ever
    text = f"{planned.id}, attempt {number}: {how}"
    text += f" ({cause})" if cause else ""
    if code == events.AGAIN:
        text += "; it may be started again"
    elif code in (events.MISTAKE, events.FULL_DISK):
        text += "; it is not started again"
    _report(text)
    return code


def follow(sweep: Sweep, planned: PlannedRun, number: int) -> int:
    """Trains as process `number`, from 1, of a run of several; own log."""
    folder = sweep.attempts(planned.id)
    folder.mkdir(parents=True, exist_ok=True)
    launch = read_launch(sweep)
    began = time.time()
    count = len(list(folder.glob(f"log-*.host{number}.txt")))
    log = folder / f"log-{count + 1}.host{number}.txt"
    ended = _train(sweep, planned, log, launch)
    if ended.code in (events.DONE, events.DIVERGED):
        return ended.code
    deadline = time.monotonic() + _END_TIMEOUT
    while time.monotonic() < deadline:
        known = events.read(folder)
        # Clocks of two hosts differ a little; attempts take longer.
        late = [e for e in known if e.get("time", 0.0) > began - 1]
        if events.count(late, "ended"):
            return events.verdict(known, launch.max_attempts)
        time.sleep(0.5)
    return events.AGAIN


def _train(
    sweep: Sweep,
    planned: PlannedRun,
    log: Path,
    launch: Launch,
    *,
    hung_grace: float = _HUNG_GRACE,
    **options: Any,
) -> child_process.Exit:
    """Runs the trainer; options are those of `child_process.run`."""
    # Relative paths in configs start where the sweep was planned.
    home = Path(sweep.facts.get("cwd", ""))
    return child_process.run(
        [*sweep.train_command(planned.id), "--restarts", "0"],
        log=log,
        progress_file=sweep.workdir(planned.id) / "metrics.jsonl",
        hang_seconds=60 * launch.hang_minutes,
        hung_grace=hung_grace,
        stop_grace=_STOP_GRACE,
        cwd=home if home.is_absolute() and home.is_dir() else None,
        **options,
    )


def _is_cancelled(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        recent = events.since_retry(events.read(folder))
        return events.count(recent, "cancelled") > 0
    return False


def _code_without_training(
    sweep: Sweep,
    planned: PlannedRun,
    before: list[dict[str, Any]],
    launch: Launch,
) -> int | None:
    """Exit code of a run that is over; notes the end of a lost attempt."""
    turns = [e for e in before if e["event"] in ("started", "ended")]
    if turns and turns[-1]["event"] == "started":
        lost = {
            "attempt": turns[-1].get("attempt", 0),
            "code": None,
            "outcome": "lost",
            "cause": "its machine or launcher died",
            "seconds": None,
        }
        before.append({"event": "ended", **lost})
        _append(sweep.attempts(planned.id), "ended", **lost)
    if found := result(sweep, planned):
        config = frozen_config(sweep.config(planned.id))
        if found.get("config_hash") == config_hash(config):
            _report(f"{planned.id} is {found['outcome']} already")
            done = found["outcome"] == "done"
            return events.DONE if done else events.DIVERGED
    code = events.verdict(before, launch.max_attempts)
    if code != events.MISTAKE:
        return None
    _report(
        f"error: {planned.id} was given up or cancelled; to try again: "
        f"i2i-prior sweep retry {sweep.quoted} --ids {planned.id}"
    )
    return code


def _append(folder: Path, event: str, **facts: Any) -> bool:
    """Appends an event if it can: a full disk must not end a training."""
    try:
        events.append(folder, event, **facts)
    except UserError as error:
        _report(str(error))
        return False
    return True


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
