"""The trainer as a child: its words kept, signals passed on, hangs ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from i2i_prior.training.resilience.restarts import caught, with_parent

_TICK = 1.0  # seconds between looks at what makes no sound
_BLOCK = 1 << 16
# Seconds between a TERM and a KILL: for one that hangs, and for one that was
# asked to leave and may be saving much.
HUNG_GRACE, ASKED_GRACE = 60.0, 600.0


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
      code: its exit code, minus the number of the signal that killed it.
      asked: the first signal that was passed on, as "SIGTERM", or "".
      hung: in words how long it was silent before it was stopped, or "".
    """

    code: int
    asked: str = ""
    hung: str = ""


def run(
    command: Sequence[str],
    log: Path,
    pulse: Path,
    *,
    hang_seconds: float,
    hung_grace: float = HUNG_GRACE,
    unwanted: Callable[[], bool] = lambda: False,
    keep: Sequence[int] = (),
    folder: Path | None = None,
) -> Ended:
    """Runs a command to its end, in a process group of its own.

    What it says goes to the log and to this process's stdout. TERM, USR1,
    USR2 and Ctrl-C are passed on. It gets a TERM where this process dies, and
    its own children are killed when it has ended.

    Args:
      command: to run.
      log: appended to.
      pulse: a file that changes while it works, as metrics.jsonl.
      hang_seconds: without a word and a change of `pulse` after which it is
        stopped.
      hung_grace: seconds that it then has to save.
      unwanted: asked every second; once true, it is told to leave.
      keep: open files that it inherits, as a lock.
      folder: where it runs; None for here.
    """
    children: list[subprocess.Popen] = []
    with caught(children) as came, log.open("ab", buffering=0) as words:
        child = subprocess.Popen(
            with_parent(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
            pass_fds=tuple(keep),
            cwd=folder,
        )
        children.append(child)
        if came:  # before it was in the list
            child.send_signal(came[-1])
        watched = _Watched(child, words, pulse)
        try:
            hung = _until_end(watched, came, hang_seconds, hung_grace, unwanted)
        finally:
            # While it is not yet reaped, its number is nobody else's.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            watched.read(0.0, to_the_end=True)
            code = child.wait()
    asked = signal.Signals(came[0]).name if came else ""
    return Ended(code, asked, hung)


class _Watched:
    """A child's words and pulse; `last` is when one of them came."""

    def __init__(
        self, child: subprocess.Popen, words: BinaryIO, pulse: Path
    ) -> None:
        assert child.stdout is not None
        self.child, self._words, self._pulse = child, words, pulse
        self._pipe: int | None = child.stdout.fileno()
        self._beat = _stamp(pulse)
        self.last = time.monotonic()

    def read(self, wait: float, to_the_end: bool = False) -> None:
        """Waits for words so long at most, and passes them on."""
        while True:
            if self._pipe is None:
                time.sleep(wait)
                break
            if not select.select([self._pipe], [], [], wait)[0]:
                break
            text = os.read(self._pipe, _BLOCK)
            if not text:
                self._pipe = None
            else:
                self.last = time.monotonic()
                self._pass_on(text)
            if not to_the_end:
                break
        if (beat := _stamp(self._pulse)) != self._beat:
            self._beat, self.last = beat, time.monotonic()

    def _pass_on(self, text: bytes) -> None:
        # Neither a full disk nor a reader that left may end the training.
        with contextlib.suppress(OSError):
            self._words.write(text)
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stdout.buffer.write(text)
            sys.stdout.buffer.flush()

    def ended(self) -> bool:
        """Whether the child has ended; it is not reaped."""
        if self.child.returncode is not None:
            return True
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            return os.waitid(os.P_PID, self.child.pid, how) is not None
        except ChildProcessError:
            return True


def _until_end(
    watched: _Watched,
    came: list[int],
    hang_seconds: float,
    hung_grace: float,
    unwanted: Callable[[], bool],
) -> str:
    """In words that it hung, or ""; afterwards the child has ended."""
    hung, due = "", float("inf")
    asked = False
    while not watched.ended():
        watched.read(_TICK)
        now = time.monotonic()
        if now > due:
            watched.child.kill()
            due = now + hung_grace
        elif came and not asked:
            asked, due = True, min(due, now + ASKED_GRACE)
        elif not asked and unwanted():
            os.kill(os.getpid(), signal.SIGTERM)
        elif not hung and now - watched.last > hang_seconds:
            hung = f"silent for {hang_seconds / 60:.3g} minutes"
            watched.child.terminate()
            due = min(due, now + hung_grace)
    return hung


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
