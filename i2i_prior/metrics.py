"""Numbers of a run while it runs: writers, progress, throughput, MFU.

Only the first process of a run should write (`jax.process_index() == 0`).
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm

# Dense bf16 peak of one chip in FLOP/s, without sparsity, by a word of the
# device kind. Sources: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e} ("Peak
# compute per chip"); NVIDIA data sheets of A100, H100, H200 and L4 (the
# figures "with sparsity" halved). JAX calls v5e "TPU v5 lite", v5p "TPU v5",
# v6e "TPU v6 lite".
PEAK_FLOPS: dict[str, float] = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "A100": 312e12,
    "H100": 989e12,  # SXM
    "H100 PCIe": 756e12,
    "H200": 989e12,
    "L4": 121e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Peak bf16 FLOP/s of `jax.Device.device_kind`; None where unknown.

    The longest name in PEAK_FLOPS that stands in `device_kind` as whole words
    counts, so "NVIDIA L40S" is not an L4 and "TPU v5 lite" not a v5p.
    """
    for name in sorted(PEAK_FLOPS, key=len, reverse=True):
        if re.search(rf"\b{re.escape(name)}\b", device_kind, re.IGNORECASE):
            return PEAK_FLOPS[name]
    return None


def mfu(
    flops_per_step: float,
    steps_per_second: float,
    devices: int,
    device_kind: str,
) -> float | None:
    """Model FLOPs utilisation in 0..1; None where the peak is unknown (CPU).

    `flops_per_step` counts what the model needs for the global batch, not
    what remat computes again (Chowdhery et al. 2022, "PaLM", appendix B).
    """
    peak = peak_flops(device_kind)
    if peak is None:
        return None
    return flops_per_step * steps_per_second / (devices * peak)


class MetricWriter:
    """metrics.jsonl and TensorBoard events in the run directory `workdir`.

    Opening repairs metrics.jsonl: a last line that a killed run left half
    written is cut off. With `images=False`, `image` does nothing.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        tensorboard: bool = True,
        images: bool = True,
    ) -> None:
        self.workdir = Path(workdir)
        self.workdir.mkdir(parents=True, exist_ok=True)
        self.path = self.workdir / "metrics.jsonl"
        self._tensorboard = tensorboard
        self._images = images
        self._purge_step: int | None = None
        self._events: Any = None
        self._opened = 0
        _repair(self.path)
        self._lines = self.path.open("a", encoding="utf-8")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one line {"step", "time" (Unix seconds), **values}.

        A value that is not finite becomes null, because JSON has no NaN.
        """
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
    otherwise at most once in 10 seconds.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        description: str = "",
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._total, self._start, self._clock = total, start, clock
        self._description = description
        self._began = self._last_line = clock()
        self._bar: tqdm | None = None
        if self._stream.isatty():
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
        if not (text or due):
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


class Throughput:
    """Speed over windows of steps, without the pauses between them.

    throughput = Throughput(examples_per_step=256, start_step=step)
    with throughput.pause("checkpoint"):
        ...
    rates = throughput.window(step)      # at a log step

    Steps are dispatched ahead of the device: call `window` after something
    has waited for the device, as reading the loss does.
    """

    def __init__(
        self,
        examples_per_step: int,
        start_step: int = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._examples_per_step, self._clock = examples_per_step, clock
        self.paused: dict[str, float] = {}
        self._began = self._window_began = clock()
        self._window_step, self._window_paused = start_step, 0.0
        self._pausing = False

    @contextmanager
    def pause(self, name: str) -> Iterator[None]:
        """Time inside counts as `name` (compile, checkpoint), not as steps.

        A pause within a pause belongs to the outer one.
        """
        if self._pausing:
            yield
            return
        self._pausing, began = True, self._clock()
        try:
            yield
        finally:
            self._pausing, seconds = False, self._clock() - began
            self.paused[name] = self.paused.get(name, 0.0) + seconds
            self._window_paused += seconds

    def window(self, step: int) -> dict[str, float]:
        """Rates since the last call: steps_per_second, examples_per_second.

        Also `goodput`, the share of wall time since the start that went into
        steps, 0..1. The next window begins here.
        """
        now = self._clock()
        busy = max(now - self._window_began - self._window_paused, 1e-9)
        rate = (step - self._window_step) / busy
        self._window_began, self._window_paused = now, 0.0
        self._window_step = step
        return {
            "steps_per_second": rate,
            "examples_per_second": rate * self._examples_per_step,
            "goodput": self.goodput,
        }

    @property
    def goodput(self) -> float:
        """Share of wall time since the start that was no pause, 0..1."""
        wall = self._clock() - self._began
        paused = sum(self.paused.values())
        return max(1.0 - paused / wall, 0.0) if wall > 0 else 1.0
