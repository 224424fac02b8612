"""Restarts of a run that crashes, on one machine: `train --restarts N`.

The run is a child process, so that a crash (of a driver, by lack of memory,
by a bug in a library) does not end the supervisor. On a cluster the scheduler
restarts runs that end with exit code 75.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from i2i_prior.checkpoint.run_dir import newest_checkpoint

# Done, a mistake of the user's (2 is argparse's), diverged, a full disk,
# stopped: another start would end the same way, or was not asked for.
FINAL = (0, 1, 2, 64, 65, 74, 75)
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
_MAX_WAIT = 300.0  # seconds
# Execs the command, which then gets a TERM if this process is killed.
# 1 is PR_SET_PDEATHSIG, which exec keeps.
_END_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))
os.execvp(sys.argv[1], sys.argv[1:])
"""


def with_parent(command: Sequence[str]) -> list[str]:
    """Command that gets a TERM when its parent dies; unchanged if not on
    Linux."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-c", _END_WITH_PARENT, *command]


def without_restarts(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments of the child: without --restarts N."""
    kept: list[str] = []
    skip = False
    for text in arguments:
        if skip:
            skip = False
        elif text == "--restarts":
            skip = True
        elif not text.startswith("--restarts="):
            kept.append(text)
    return kept


def supervise(
    command: Sequence[str],
    workdir: Path,
    restarts: int,
    *,
    first_wait: float = 5.0,
) -> int:
    """Runs a command, and again after each crash, up to `restarts` times.

    TERM, USR1, USR2 and Ctrl-C are passed on to the child; after one it is
    not started again, nor after two crashes without a new checkpoint between
    them.

    Args:
      command: trains in `workdir`, and resumes there.
      workdir: the run directory.
      restarts: most restarts.
      first_wait: seconds before the first restart; doubled by each crash.

    Returns:
      the child's last exit code, 128 + N after signal N.
    """
    previous: int | None = None  # the newest checkpoint at the crash before
    for attempt in range(restarts + 1):
        code, stopped = _run(command)
        if stopped or code in FINAL:
            return code
        newest = newest_checkpoint(workdir)
        how = f"exit code {code}" if code < 128 else _name(code - 128)
        at = "no checkpoint" if newest is None else f"checkpoint {newest}"
        if attempt and (newest or 0) <= (previous or 0):
            _log(
                f"the run crashed again ({how}) with no new checkpoint since "
                f"the crash before ({at}); not restarted: see its last output "
                "above"
            )
            return code
        if attempt == restarts:
            _log(f"the run crashed ({how}) after {restarts} restarts")
            return code
        wait = min(first_wait * 2**attempt, _MAX_WAIT)
        _log(
            f"the run crashed ({how}) at {at}; restart {attempt + 1} of "
            f"{restarts} in {wait:g} s"
        )
        previous = newest
        if _sleep(wait):
            return code
    raise AssertionError("every attempt returns or is followed by another")


def _run(command: Sequence[str]) -> tuple[int, bool]:
    """Runs a command once; returns exit code, and True if a signal came."""
    # In a group of its own: a terminal would send Ctrl-C to the child too,
    # besides this process's passing it on, and a second one aborts.
    child = subprocess.Popen(with_parent(command), process_group=0)
    with caught([child]) as signals:
        try:
            code = child.wait()
        except BaseException:
            child.terminate()
            raise
    return (code if code >= 0 else 128 - code), bool(signals)


def _sleep(seconds: float) -> bool:
    """Waits; returns True at once if a signal comes."""
    until = time.monotonic() + seconds
    with caught() as signals:
        while not signals and time.monotonic() < until:
            time.sleep(0.1)
    return bool(signals)


@contextlib.contextmanager
def caught(children: Sequence[subprocess.Popen] = ()) -> Iterator[list[int]]:
    """Yields the list of signals that have come; children get them too.

    Children may be appended to their list later.
    """
    numbers: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        numbers.append(number)
        for child in children:
            child.send_signal(number)

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield numbers
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
