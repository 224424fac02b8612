"""Supervised child processes: signals, logs, hangs, and no process left over.

A child runs in a session of its own, so a Ctrl-C on the terminal reaches it
only through this process, and its whole process group can be killed. On Linux
it receives a SIGTERM when this process dies.
"""

import contextlib
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, Self

_TERM, _USER = (signal.SIGTERM, signal.SIGHUP), (signal.SIGUSR1, signal.SIGUSR2)
STOP_SIGNALS = (*_TERM, *_USER, signal.SIGINT)
_TICK = 1.0  # seconds between checks of a silent child
_POLL = 0.1  # seconds between checks of a child that has no pipe to wait on
_BLOCK = 1 << 16
_PYTHON = sys.executable
# Sets PR_SET_PDEATHSIG (1), which exec keeps, and becomes the command.
_TERM_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))
os.execvp(sys.argv[1], sys.argv[1:])
"""


@dataclass(frozen=True)
class Exit:
    """End of a supervised child."""

    code: int  # or minus the number of the signal that killed it
    signalled: str = ""  # first signal passed on to it, as "SIGTERM"
    hung: str = ""  # why it was stopped, as "silent for 30 minutes"

    @property
    def shell_code(self) -> int:
        """Exit code as a shell reports it: 128 + the number of a signal."""
        return self.code if self.code >= 0 else 128 - self.code


class ChildProcess:
    """Child in a session of its own; leaving the context kills its group."""

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        """Starts a command with the options of `subprocess.Popen`; stdin is
        empty unless given."""
        if sys.platform == "linux":
            command = [_PYTHON, "-IS", "-c", _TERM_WITH_PARENT, *command]
        options = {"stdin": subprocess.DEVNULL, **options}
        self._popen = subprocess.Popen(
            command, start_new_session=True, **options
        )
        self._code: int | None = None
        self.pid, self.stdout = self._popen.pid, self._popen.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def ended(self) -> bool:
        """Returns True once the child has ended, without reaping it.

        Until it is reaped no other process can get its number.
        """
        if self._code is not None or not hasattr(os, "waitid"):
            return self._popen.poll() is not None
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, how) is not None

    def send_signal(self, number: int) -> None:
        """Signals the child itself; nothing once it has been reaped."""
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> int:
        """Kills the process group, reaps the child, returns its exit code."""
        if self._code is None:
            # EPERM is the answer of macOS for a group of zombies.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._code = self._popen.wait()
        return self._code


@contextlib.contextmanager
def handled_signals(
    handler: Callable[[int, FrameType | None], None],
) -> Iterator[None]:
    """Handles `STOP_SIGNALS` inside; a SIGHUP that nohup ignores stays so."""
    before = {n: signal.getsignal(n) for n in STOP_SIGNALS}
    nohup = before[signal.SIGHUP] is signal.SIG_IGN
    handled = [n for n in STOP_SIGNALS if not nohup or n != signal.SIGHUP]
    for number in handled:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])


@contextlib.contextmanager
def forwarded_signals(
    children: Iterable[ChildProcess] = (),
) -> Iterator[list[int]]:
    """Passes `STOP_SIGNALS` on to child processes.

    Yields the numbers of the signals so far; `children` may grow and shrink.
    """
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for child in children:
            child.send_signal(number)

    with handled_signals(forward):
        yield received


def run(
    command: Sequence[str],
    *,
    log: Path | None = None,
    progress_file: Path | None = None,
    hang_seconds: float = math.inf,
    hung_grace: float = math.inf,
    stop_grace: float = math.inf,
    cancelled: Callable[[], bool] = lambda: False,
    **options: Any,
) -> Exit:
    """Runs a command to its end, then kills what is left of its group.

    Signals that come meanwhile are passed on.

    Args:
      command: argv.
      log: receives stdout and stderr, appended, which also go to this
        process's stdout; without it the child inherits both.
      progress_file: changes while the child works, as metrics.jsonl.
      hang_seconds: time without output and without a change of
        `progress_file` after which the child is terminated.
      hung_grace: seconds from there to a SIGKILL.
      stop_grace: seconds from the first signal passed on to a SIGKILL.
      cancelled: polled every second; once True the child is terminated as if
        this process had received a SIGTERM.
      **options: of `subprocess.Popen`.
    """
    children: list[ChildProcess] = []
    with contextlib.ExitStack() as stack:
        received = stack.enter_context(forwarded_signals(children))
        sink = None
        if log is not None:
            sink = stack.enter_context(log.open("ab", buffering=0))
            options |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        child = ChildProcess(command, **options)
        children.append(child)
        if received:  # before it was in the list
            child.send_signal(received[-1])
        monitor = _Monitor(child, sink, progress_file)
        limits = hang_seconds, hung_grace, stop_grace
        try:
            hung = _wait(monitor, received, limits, cancelled)
        finally:
            code = child.kill()
            monitor.read(0.0, to_the_end=True)
    return Exit(code, signal_name(received[0]) if received else "", hung)


def signal_name(number: int) -> str:
    """Name of a signal, as "SIGTERM"; "signal 99" where it has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class _Monitor:
    """Passes on the output of a child.

    Attributes:
      last_active: `time.monotonic()` of its last output or progress.
    """

    def __init__(
        self, child: ChildProcess, sink: BinaryIO | None, progress: Path | None
    ) -> None:
        self.child, self._sink, self._progress = child, sink, progress
        self._pipe = None if child.stdout is None else child.stdout.fileno()
        self._stamp = _stamp(progress)
        self.last_active = time.monotonic()

    def read(self, timeout: float, to_the_end: bool = False) -> None:
        """Waits `timeout` seconds at most for output, and passes it on."""
        while True:
            if self._pipe is None:
                time.sleep(min(timeout, _POLL))
                break
            if not select.select([self._pipe], [], [], timeout)[0]:
                break
            text = os.read(self._pipe, _BLOCK)
            if not text:
                self._pipe = None
            else:
                self.last_active = time.monotonic()
                self._pass_on(text)
            if not to_the_end:
                break
        if (stamp := _stamp(self._progress)) != self._stamp:
            self._stamp, self.last_active = stamp, time.monotonic()

    def _pass_on(self, text: bytes) -> None:
        # Neither a full disk nor a closed stdout may end the child.
        if self._sink is not None:
            with contextlib.suppress(OSError):
                self._sink.write(text)
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stdout.buffer.write(text)
            sys.stdout.buffer.flush()


def _wait(
    monitor: _Monitor,
    received: list[int],
    limits: tuple[float, float, float],
    cancelled: Callable[[], bool],
) -> str:
    """Waits until the child has ended; returns `Exit.hung`."""
    hang_seconds, hung_grace, stop_grace = limits
    hung, deadline = "", math.inf
    stopping = False
    while not monitor.child.ended():
        monitor.read(_TICK)
        now = time.monotonic()
        if now > deadline:
            monitor.child.send_signal(signal.SIGKILL)
            deadline = now + hung_grace
        elif received and not stopping:
            stopping, deadline = True, min(deadline, now + stop_grace)
        elif not stopping and cancelled():
            os.kill(os.getpid(), signal.SIGTERM)
        elif not hung and now - monitor.last_active > hang_seconds:
            hung = f"silent for {hang_seconds / 60:.3g} minutes"
            monitor.child.send_signal(signal.SIGTERM)
            deadline = min(deadline, now + hung_grace)
    return hung


def _stamp(path: Path | None) -> tuple[int, int] | None:
    """Time of the last change (ns) and size (bytes) of a file, if it exists."""
    if path is None:
        return None
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_mtime_ns, found.st_size
    return None
