"""Callable that submitit runs in each task of a Slurm job.

It pickles a command and no training code: a job that waits for days, or is
requeued, runs the code that is installed then.

submitit's own handler of the preemption signal requeues at once, while the
trainer is still saving, and ignores SIGTERM, the only signal of a cluster
without `preempt_send_user_signal`. Here signals are left to the command,
because Slurm sends them to every process of the step, and the job is requeued
after the command has ended with 75.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

AGAIN = 75
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Task:
    """A command (argv) that Slurm starts again where it exits with 75."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)

    def __call__(self) -> int:
        """Runs the command; exits with its code unless that is 0."""
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        code = subprocess.call(self.command)
        if code < 0:
            # A signal that came before the command handled it.
            code = AGAIN if -code in _SIGNALS else 128 - code
        if os.environ.get("SLURM_PROCID", "0") != "0":
            # The first task decides: Slurm may be set to end a step at the
            # first task that fails.
            return 0
        if code == AGAIN:
            _requeue()
        if code:
            sys.exit(code)
        return code

    def checkpoint(self) -> Any:
        """For submitit: a signal between its start and `__call__`."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _requeue() -> None:
    """Requeues this job, unless Slurm or its user have ended it."""
    job = _job()
    shown = _scontrol("show", "job", "-o", job)
    state = re.search(r"\bJobState=(\w+)", shown.stdout)
    if state is not None and state[1] != "RUNNING":
        # Slurm has requeued it by itself, or a person has cancelled it.
        _say(f"job {job} is {state[1].lower()}: it is not requeued from here")
        return
    done = _scontrol("requeue", job)
    if done.returncode:
        _say(
            f"error: Slurm does not requeue job {job} ({done.stderr.strip()});"
            " submit the sweep again, which resumes the run"
        )
    else:
        _say(f"job {job} is requeued")


def _job() -> str:
    """Id of this job for scontrol.

    In an array it is not SLURM_JOB_ID: one of the jobs has the id of the whole
    array, and all would start again, even those that are done.
    """
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array is None:
        return os.environ["SLURM_JOB_ID"]
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"


def _scontrol(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["scontrol", *arguments]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
