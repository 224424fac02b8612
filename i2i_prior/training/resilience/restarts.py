"""Restarts a run that crashes, on one machine: `i2i-prior train --restarts N`.

The run is a child process, so that what kills it (a driver, memory, a bug in
a library) does not kill this. A cluster's scheduler does the same with the
exit code 75.
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

# Done, a mistake of the user's (argparse says 2), diverged, a full disk,
# stopped: another start would end the same way, or was not asked for.
FINAL = (0, 1, 2, 64, 65, 74, 75)
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
_LONGEST = 300.0  # seconds
# Becomes the command, with a TERM to come where this process is killed:
# nobody trains on unseen. 1 is PR_SET_PDEATHSIG, which exec keeps.
_END_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))
os.execvp(sys.argv[1], sys.argv[1:])
"""


def with_parent(command: Sequence[str]) -> list[str]:
    """A command that gets a TERM when its parent dies; as it is elsewhere
    than on Linux."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-c", _END_WITH_PARENT, *command]


def without_restarts(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments less --restarts N, for the child."""
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
    """Runs a command, again after each crash, up to `restarts` more times.

    TERM, USR1, USR2 and Ctrl-C are passed on to the child; after one it is
    not started again. Two crashes without a new checkpoint between them end
    it too: a third would come as surely.

    Args:
      command: that trains in `workdir`, and resumes there.
      workdir: the run directory.
      restarts: how often at most.
      first_wait: seconds before the first restart; doubled by each crash.

    Returns:
      the child's last exit code; 128 + its number after a signal.
    """
    reached: int | None = None  # the newest checkpoint at the crash before
    for attempt in range(restarts + 1):
        code, stopped = _run(command)
        if stopped or code in FINAL:
            return code
        newest = newest_checkpoint(workdir)
        how = f"exit code {code}" if code < 128 else _name(code - 128)
        at = "no checkpoint" if newest is None else f"checkpoint {newest}"
        if attempt and (newest or 0) <= (reached or 0):
            _say(
                f"the run crashed again ({how}) with no new checkpoint since "
                f"the crash before ({at}); not restarted: look at its last "
                "words above"
            )
            return code
        if attempt == restarts:
            _say(f"the run crashed ({how}) after {restarts} restarts")
            return code
        wait = min(first_wait * 2**attempt, _LONGEST)
        _say(
            f"the run crashed ({how}) at {at}; restart {attempt + 1} of "
            f"{restarts} in {wait:g} s"
        )
        reached = newest
        if _sleep(wait):
            return code
    raise AssertionError("every attempt returns or is followed by another")


def _run(command: Sequence[str]) -> tuple[int, bool]:
    """Exit code of one start, and whether a signal asked it to stop."""
    # In a group of its own: a terminal would send Ctrl-C to the child beside
    # this process's passing it on, and a second one aborts.
    child = subprocess.Popen(with_parent(command), process_group=0)
    with caught([child]) as came:
        try:
            code = child.wait()
        except BaseException:
            child.terminate()
            raise
    return (code if code >= 0 else 128 - code), bool(came)


def _sleep(seconds: float) -> bool:
    """Waits; True at once where a signal asks to stop."""
    until = time.monotonic() + seconds
    with caught() as came:
        while not came and time.monotonic() < until:
            time.sleep(0.1)
    return bool(came)


@contextlib.contextmanager
def caught(children: Sequence[subprocess.Popen] = ()) -> Iterator[list[int]]:
    """Signals that came inside; each of the children gets them, those too
    that are put into the list later."""
    numbers: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        numbers.append(number)
        for child in children:
            child.send_signal(number)

    before = {number: signal.signal(number, note) for number in _SIGNALS}
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


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
