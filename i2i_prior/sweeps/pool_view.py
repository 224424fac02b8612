"""How runs that train on this machine are shown meanwhile."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

from i2i_prior.sweeps.run.progress import duration
from i2i_prior.sweeps.run.state import RunState, seconds_left

_PLAIN = 60.0  # seconds between lines that are no bar


class View:
    """A bar on a terminal; elsewhere a line a minute, and for each end."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._bar: Any = None
        self._last = time.monotonic()
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total,
                file=sys.stderr,
                dynamic_ncols=True,
                bar_format="{n_fmt}/{total_fmt} runs |{bar}| [{elapsed}"
                "{postfix}]",
            )

    def show(self, found: list[RunState], leaving: bool) -> None:
        """What runs, how far it is, and when all will be done."""
        parts = [
            f"{state.run.name} {state.progress.step:,}/{state.run.steps:,}"
            for state in found
            if state.state == "running"
        ]
        left = seconds_left(found)
        if leaving:
            parts.append("stopping: they save")
        elif left is not None:
            parts.append(f"ETA {duration(left)}")
        text = ", ".join(parts)
        if self._bar is not None:
            self._bar.total, self._bar.n = self.total, self.total - len(found)
            self._bar.set_postfix_str(text)
        elif time.monotonic() - self._last > _PLAIN:
            self._last = time.monotonic()
            done = self.total - len(found)
            print(f"{done} of {self.total} runs; {text}", file=sys.stderr)

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self._bar is not None:
            self._bar.close()
