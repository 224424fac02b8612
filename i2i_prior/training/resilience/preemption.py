"""Signals that ask a run to save and leave, and the exit codes it gives."""

from __future__ import annotations

import signal
from types import FrameType

from i2i_prior.distributed import runtime

DONE, DIVERGED, REQUEUE = 0, 65, 75
_SAVE = "save"


class Interrupted(Exception):  # noqa: N818 - no error
    """A signal came during something that can be done again."""


class Preemption:
    """Notes the first TERM, USR1, USR2 or Ctrl-C; a second Ctrl-C aborts.

    Use as a context manager; `requested` is the signal's name or "".
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)

    def __init__(self) -> None:
        self.requested = self._agreed = ""
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> Preemption:
        for number in self.SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def agree(self, save: bool = False) -> tuple[str, bool]:
        """What all processes of the run do now; all ask at the same places.

        One process agrees with itself. Of several, any signal and the first
        process's clock count, at the same call on each: no message is sent
        before one of them asks (see `parallel.member`).

        Args:
          save: whether the clock here says that a checkpoint is due.

        Returns:
          the signal to stop for, "" for none, and whether to save.
        """
        if runtime.count() == 1:
            return self.requested, save
        if self._agreed:
            return self._agreed, False
        if self.requested:
            runtime.request_stop(self.requested)
        if save and runtime.is_primary():
            runtime.request_stop(_SAVE)
        reached = runtime.stop_requests()
        self._agreed = next((text for text in reached if text != _SAVE), "")
        return self._agreed, _SAVE in reached

    def check(self) -> None:
        """Raises Interrupted once a signal has come: polled by long work."""
        stop, _ = self.agree()
        if stop:
            raise Interrupted(stop)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name
