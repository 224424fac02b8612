"""Display of runs that a launcher watches in the foreground."""

import sys
import time

from tqdm import tqdm

from i2i_prior.sweeps.run.state import RunState, seconds_left
from i2i_prior.sweeps.status import duration

_LINES = 60.0  # seconds between displays that are lines


class PoolDisplay:
    """Progress bar on a terminal; elsewhere a line a minute.

    Attributes:
      total: runs of the pool.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._last = time.monotonic()
        self._bar = tqdm(
            total=total,
            file=sys.stderr,
            disable=None,  # where stderr is no terminal
            dynamic_ncols=True,
            bar_format="{n_fmt}/{total_fmt} runs |{bar}| [{elapsed}{postfix}]",
        )

    def update(self, unended: list[RunState], stopping: bool) -> None:
        """Shows running runs, their steps, and the time left."""
        parts = [
            f"{state.run.name} {state.progress.step:,}/{state.run.steps:,}"
            for state in unended
            if state.state == "running"
        ]
        left = seconds_left(unended)
        if stopping:
            parts.append("stopping: they save")
        elif left is not None:
            parts.append(f"ETA {duration(left)}")
        text, done = ", ".join(parts), self.total - len(unended)
        if not self._bar.disable:
            self._bar.total, self._bar.n = self.total, done
            self._bar.set_postfix_str(text)
        elif time.monotonic() - self._last > _LINES:
            self._last = time.monotonic()
            self.write(f"{done} of {self.total} runs; {text}")

    def write(self, text: str) -> None:
        """Writes a line above the bar."""
        self._bar.write(text, file=sys.stderr)
        sys.stderr.flush()

    def close(self) -> None:
        """Ends the bar's line."""
        self._bar.close()
