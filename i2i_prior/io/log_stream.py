"""Standard error that may be full, closed or without a reader."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


class LogStream:
    """A text stream whose write errors are passed over: a log ends no run."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes what can be written; returns the length of all."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes where that is possible."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def tolerant_stderr() -> Iterator[None]:
    """Makes sys.stderr a `LogStream`, also where a shell has closed it."""
    stream = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    with contextlib.redirect_stderr(LogStream(stream)):
        try:
            yield
        finally:
            drop_unwritable(stream)


def drop_unwritable(stream: Any) -> None:
    """Sends to nowhere what a stream cannot write: at its end Python would
    try once more, and exit with 120."""
    try:
        stream.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
