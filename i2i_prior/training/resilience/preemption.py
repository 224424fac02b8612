"""Preemption: signals upon which a run saves and ends, and exit codes."""

import signal
from types import FrameType
from typing import Self

from i2i_prior.distributed import runtime
from i2i_prior.io.child_process import handled_signals

DONE, DIVERGED, REQUEUE = 0, 65, 75
_SAVE = "save"


class Interrupted(Exception):  # noqa: N818 - no error
    """Raised by work that can be repeated, when a signal has come."""


class Preemption:
    """Notes the first of `STOP_SIGNALS`; a second Ctrl-C aborts.

    Use as a context manager; `requested` is the signal's name or "".
    """

    def __init__(self) -> None:
        self.requested = self._polled = ""
        self._handled = handled_signals(self._note)

    def __enter__(self) -> Self:
        self._handled.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._handled.__exit__(None, None, None)

    def poll(self, save: bool = False) -> tuple[str, bool]:
        """Returns the signal to stop for ("" for none), and True to save.

        All processes of a run call it at the same places and get the same.
        A signal to any of them counts, and `save` (a checkpoint is due by the
        clock) of the first one: no message is sent before one of them has a
        request (see `distributed.client`).
        """
        if runtime.count() == 1:
            return self.requested, save
        if self._polled:
            return self._polled, False
        if self.requested:
            runtime.request_stop(self.requested)
        if save and runtime.is_primary():
            runtime.request_stop(_SAVE)
        requests = runtime.stop_requests()
        self._polled = next((text for text in requests if text != _SAVE), "")
        return self._polled, _SAVE in requests

    def check(self) -> None:
        """Raises Interrupted once a signal has come: polled by long work."""
        stop, _ = self.poll()
        if stop:
            raise Interrupted(stop)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name
