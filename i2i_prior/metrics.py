"""Numbers of a run while it runs: writers and progress.

Only the first process of a run should write (`jax.process_index() == 0`).
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm


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


class Progress:
    """How far a run is: a bar on a terminal, plain lines anywhere else.

    A plain line comes with every update that carries values (a log step) and
    otherwise at most once in 10 seconds. With `write=False` nothing comes.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        description: str = "",
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        write: bool = True,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._write = write
        self._total, self._start, self._clock = total, start, clock
        self._description = description
        self._began = self._last_line = clock()
        self._bar: tqdm | None = None
        if write and self._stream.isatty():
            self._bar = tqdm(
                total=total,
                initial=start,
                desc=description,
                file=self._stream,
                dynamic_ncols=True,
                bar_format="{desc} {n_fmt}/{total_fmt} |{bar}| {percentage:.0f}"
                "% [{elapsed}<{remaining}{postfix}]",
            )

    def restart(self, step: int) -> None:
        """The time left is judged from here on: compilation is over."""
        self._start, self._began = step, self._clock()
        if self._bar is not None:
            self._bar.initial = step
            self._bar.start_t = self._bar._time()

    def update(self, step: int, **values: float | None) -> None:
        """`step` steps are done; loss, examples_per_second, mfu and others."""
        text = _readable(values)
        if self._bar is not None:
            if text:
                self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar.n)
            return
        now = self._clock()
        due = now - self._last_line >= 10.0
        if not self._write or not (text or due):
            return
        self._last_line = now
        parts = [f"{self._description} {step}/{self._total}".strip(), text]
        done = step - self._start
        if done > 0 and step < self._total:
            remaining = (now - self._began) / done * (self._total - step)
            parts.append(f"ETA {tqdm.format_interval(remaining)}")
        print("  ".join(filter(None, parts)), file=self._stream, flush=True)

    def close(self) -> None:
        """Leaves the bar as it is and ends its line."""
        if self._bar is not None:
            self._bar.close()


def _readable(values: Mapping[str, float | None]) -> str:
    """{"loss": .5, "mfu": .4} -> "loss 0.5  MFU 40.0 %"; None is left out."""
    words = []
    for name, value in values.items():
        if value is None:
            continue
        if name == "mfu":
            words.append(f"MFU {100 * value:.1f} %")
        elif name.endswith("_per_second"):
            words.append(f"{value:.4g} {name.removesuffix('_per_second')}/s")
        else:
            words.append(f"{name.replace('_', ' ')} {value:.4g}")
    return "  ".join(words)
