"""Metrics of a run: metrics.jsonl and TensorBoard events."""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from i2i_prior.io.files import nan_to_null, write_bytes


class MetricWriter:
    """metrics.jsonl and TensorBoard events in a run directory.

    Nothing is on disk before `open`, which makes the directory if absent.
    Without `write` (on all processes but the first) no method does anything.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        tensorboard: bool = True,
        write: bool = True,
    ) -> None:
        self.workdir = Path(workdir)
        self.path = self.workdir / "metrics.jsonl"
        self._write, self._tensorboard = write, tensorboard and write
        self._purge_step: int | None = None
        self._events: Any = None
        self._opened = 0
        self._lines: TextIO | None = None

    def open(self, last_step: int | None = None) -> None:
        """Opens the files, and cuts off a line that a killed run left torn.

        `last_step` is that of the checkpoint that the run goes on from: what
        was logged after it is dropped, since it comes again. None keeps all.
        """
        if not self._write:
            return
        self.close()
        self.workdir.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            old = self.path.read_bytes()
            kept = b"".join(
                text
                for text, line in _parse(old)
                if last_step is None or line.get("step", 0) <= last_step
            )
            if kept != old:
                write_bytes(self.path, kept)
        self._lines = self.path.open("a", encoding="utf-8")
        self._purge_step = None if last_step is None else last_step + 1

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one line {"step", "time" (Unix seconds), **values}.

        A value that is not finite becomes null, because JSON has no NaN.
        """
        if self._lines is None:
            return
        plain = {name: float(value) for name, value in values.items()}
        line = {"step": int(step), "time": round(time.time(), 3), **plain}
        self._lines.write(json.dumps(nan_to_null(line)) + "\n")
        self._lines.flush()
        if self._tensorboard:
            for name, value in plain.items():
                self._event_writer().add_scalar(name, value, int(step))

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Shows one image, uint8 (H, W, 3), in TensorBoard."""
        if self._tensorboard:
            writer = self._event_writer()
            writer.add_image(name, image, int(step), dataformats="HWC")

    def close(self) -> None:
        """Flushes and closes both files."""
        for file in (self._lines, self._events):
            if file is not None:
                file.close()
        self._lines = self._events = None

    def _event_writer(self) -> Any:
        if self._events is None:
            # Imported late: it imports torch if that is installed.
            from tensorboardX import SummaryWriter

            # File names count whole seconds: one more is needed for a file
            # that is opened within the same second.
            self._opened += 1
            self._events = SummaryWriter(
                str(self.workdir),
                purge_step=self._purge_step,
                flush_secs=10,
                filename_suffix=f".{os.getpid()}.{self._opened}",
            )
        return self._events


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, float]]:
    """Reads the lines of a metrics.jsonl (or of the one in a run directory).

    A torn last line is left out; null is read as NaN; a file that is not
    there has no lines.
    """
    file = Path(path)
    file = file / "metrics.jsonl" if file.is_dir() else file
    if not file.exists():
        return []
    return [
        {name: math.nan if v is None else v for name, v in line.items()}
        for _, line in _parse(file.read_bytes())
    ]


def _parse(text: bytes) -> list[tuple[bytes, dict[str, Any]]]:
    """Whole lines that hold a JSON object, as they are and parsed."""
    lines = []
    for line in text.splitlines(keepends=True):
        try:
            parsed = json.loads(line)
        except ValueError:
            continue
        if isinstance(parsed, dict) and line.endswith(b"\n"):
            lines.append((line, parsed))
    return lines
