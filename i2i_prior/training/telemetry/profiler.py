"""Trace of a few steps: `--profile-steps FIRST:LAST`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from i2i_prior.distributed import runtime
from i2i_prior.errors import UserError
from i2i_prior.training.telemetry.goodput import GoodputTimer
from i2i_prior.training.telemetry.trace_summary import summarise

SUMMARY = "summary.txt"


def parse_steps(text: str, steps: int) -> tuple[int, int]:
    """Parses "10:15" into (10, 15), first and last update of a trace.

    Raises:
      UserError: for anything else, or if the run of `steps` ends before FIRST.
    """
    first, _, last = text.partition(":")
    if first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last):
        if int(first) > steps:
            raise UserError(
                f"--profile-steps {text} begins after the run's last step, "
                f"{steps}; choose earlier ones"
            )
        return int(first), int(last)
    raise UserError(
        f"--profile-steps takes FIRST:LAST, as 10:15 for the updates 10 to "
        f"15, not {text!r}"
    )


class StepProfiler:
    """Traces the steps asked for, once, into folder/FIRST.

    The trace is one of `jax.profiler` (open it in XProf or Perfetto); its
    summary is printed and written to folder/summary.txt.

    Args:
      folder: RUN/profile.
      steps: first and last update, both traced; None for no trace.
      timer: where seconds of starting and stopping are booked.
    """

    def __init__(
        self, folder: Path, steps: tuple[int, int] | None, timer: GoodputTimer
    ) -> None:
        self._folder, self._timer = folder, timer
        self._first, self._last = steps or (0, 0)
        self._begun = 0  # the step that a running trace began with

    @contextmanager
    def step(self, number: int, drain: Callable[[], None]) -> Iterator[None]:
        """Traces the dispatch of update `number` (from 1), if asked for.

        `drain` waits for the steps dispatched before, so that the trace holds
        only those asked for.
        """
        if not self._first <= number <= self._last:
            if self._begun:
                drain()
                self.close()
            yield
            return
        if not self._begun:
            drain()
            self._begun = number
            with self._timer.timed("profile"):
                jax.profiler.start_trace(self._folder / str(number))
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def close(self) -> None:
        """Ends a running trace and writes its summary, or notes that none of
        the steps asked for was taken."""
        if self._last and not self._begun:
            runtime.print_once(
                f"--profile-steps {self._first}:{self._last}: none of them "
                "was taken this time, so nothing is traced"
            )
            self._last = 0
        if not self._begun:
            return
        folder, self._begun, self._last = self._folder / str(self._begun), 0, 0
        with self._timer.timed("profile"):
            jax.profiler.stop_trace()
            if runtime.is_primary():
                text = summarise(folder)
                (self._folder / SUMMARY).write_text(text + "\n")
                runtime.print_once(text)
