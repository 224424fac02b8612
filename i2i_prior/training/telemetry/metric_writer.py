"""Numbers of a run while it runs: writers and progress.

Only the first process of a run should write (`jax.process_index() == 0`).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np


class MetricWriter:
    """metrics.jsonl and TensorBoard events in the run directory `workdir`.

    Opening repairs metrics.jsonl: a last line that a killed run left half
    written is cut off. With `images=False`, `image` does nothing; with
    `write=False`, as on other processes than the first, nothing does.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        tensorboard: bool = True,
        images: bool = True,
        write: bool = True,
    ) -> None:
        self.workdir = Path(workdir)
        self.path = self.workdir / "metrics.jsonl"
        self._tensorboard = tensorboard and write
        self._images = images
        self._purge_step: int | None = None
        self._events: Any = None
        self._opened = 0
        self._lines: TextIO | None = None
        if write:
            self.workdir.mkdir(parents=True, exist_ok=True)
            _repair(self.path)
            self._lines = self.path.open("a", encoding="utf-8")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one line {"step", "time" (Unix seconds), **values}.

        A value that is not finite becomes null, because JSON has no NaN.
        """
        if self._lines is None:
            return
        plain = {name: float(value) for name, value in values.items()}
        line: dict[str, Any] = {
            "step": int(step),
            "time": round(time.time(), 3),
        }
        for name, value in plain.items():
            line[name] = value if math.isfinite(value) else None
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()
        if self._tensorboard:
            for name, value in plain.items():
                self._event_writer().add_scalar(name, value, int(step))

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Shows one image, uint8 (H, W, 3), in TensorBoard."""
        if self._tensorboard and self._images:
            self._event_writer().add_image(
                name, image, int(step), dataformats="HWC"
            )

    def rewind(self, step: int) -> None:
        """Forgets what was logged after `step`, which will come again.

        Called when a run resumes from a checkpoint of `step`; TensorBoard is
        told to hide its events after that step.
        """
        if self._lines is None:
            return
        self._lines.close()
        kept = [
            json.dumps(line)
            for line in _parse(self.path.read_bytes())
            if line.get("step", 0) <= step
        ]
        beside = self.path.with_name(f".{self.path.name}.part")
        beside.write_text("".join(f"{line}\n" for line in kept), "utf-8")
        os.replace(beside, self.path)
        self._lines = self.path.open("a", encoding="utf-8")
        self._close_events()
        self._purge_step = step + 1

    def close(self) -> None:
        """Flushes and closes both files."""
        if self._lines is not None:
            self._lines.close()
        self._close_events()

    def _event_writer(self) -> Any:
        if self._events is None:
            # tensorboardX imports torch where it finds one, so import it late
            from tensorboardX import SummaryWriter

            # its file names count whole seconds: a file opened within the
            # same one would replace the first
            self._opened += 1
            self._events = SummaryWriter(
                str(self.workdir),
                purge_step=self._purge_step,
                flush_secs=10,
                filename_suffix=f".{os.getpid()}.{self._opened}",
            )
        return self._events

    def _close_events(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl (or of the one in a run directory).

    A half-written last line is left out; null reads as NaN; a file that is
    not there has no lines.
    """
    file = Path(path)
    file = file / "metrics.jsonl" if file.is_dir() else file
    if not file.exists():
        return []
    return [
        {name: math.nan if v is None else v for name, v in line.items()}
        for line in _parse(file.read_bytes())
    ]


def _parse(text: bytes) -> list[dict[str, Any]]:
    lines = []
    for line in text.splitlines(keepends=True):
        try:
            parsed = json.loads(line)
        except ValueError:
            continue
        if isinstance(parsed, dict) and line.endswith(b"\n"):
            lines.append(parsed)
    return lines


def _repair(path: Path) -> None:
    """Cuts off trailing lines of `path` that are not whole JSON objects."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    while lines and not _parse(lines[-1]):
        lines.pop()
    size = sum(map(len, lines))
    if size != path.stat().st_size:
        os.truncate(path, size)
