"""Progress of a run, from the end of its metrics.jsonl."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

# Enough for the last lines of any run, and for the validations of most.
_BLOCK = 256 * 1024
_FEW = 4096


@dataclass(frozen=True)
class Progress:
    """Last known numbers of a run; None for what is not logged yet.

    Attributes:
      step: the last update.
      loss: of training.
      examples_per_second: of the whole run.
      metric: the last value of the sweep's metric.
      best: its lowest value.
      time: Unix seconds of the last line.
    """

    step: int = 0
    loss: float | None = None
    examples_per_second: float | None = None
    metric: float | None = None
    best: float | None = None
    time: float | None = None


def read_progress(workdir: Path, metric: str) -> Progress:
    """Reads a run's last 256 KB of metrics.jsonl; whole lines alone count.

    Args:
      workdir: the run directory.
      metric: a key of its lines; lower is better.
    """
    try:
        with (workdir / "metrics.jsonl").open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _BLOCK))
            block = file.read()
    except OSError:
        return Progress()
    block = block[: block.rfind(b"\n") + 1]
    last: dict[str, float] = {}
    # Newest first, until nothing is missing.
    for line in reversed(block[-_FEW:].splitlines()):
        try:
            values = json.loads(line)
        except ValueError:
            continue  # cut off by the block
        if isinstance(values, dict):
            for key, value in values.items():
                last.setdefault(key, value)
        if "loss" in last and "examples_per_second" in last:
            break
    pattern = re.escape(json.dumps(metric)).encode() + rb": ([-+.\deE]+)"
    found = [float(text) for text in re.findall(pattern, block)]
    return Progress(
        step=int(last.get("step", 0)),
        loss=last.get("loss"),
        examples_per_second=last.get("examples_per_second"),
        metric=found[-1] if found else None,
        best=min(found, default=None),
        time=last.get("time"),
    )


def duration(seconds: float) -> str:
    """Formats seconds, as 45 s, 12 min, 3.4 h or 2.1 days."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 5970:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 47.95 else f"{hours / 24:.1f} days"
