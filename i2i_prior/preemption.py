"""Signals that ask a run to save and leave, and the exit codes it gives."""

from __future__ import annotations

import signal
from types import FrameType

DONE, DIVERGED, REQUEUE = 0, 65, 75


class Interrupted(Exception):  # noqa: N818 - no error
    """A signal came during something that can be done again."""


class Preemption:
    """Notes the first TERM, USR1, USR2 or Ctrl-C; a second Ctrl-C aborts.

    Use as a context manager; `requested` is the signal's name or "".
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)

    def __init__(self) -> None:
        self.requested = ""
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> Preemption:
        for number in self.SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def check(self) -> None:
        """Raises Interrupted once a signal has come: polled by long work."""
        if self.requested:
            raise Interrupted(self.requested)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name
