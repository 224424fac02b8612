"""RUN/result.json: end of a run, and its last measurements."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from i2i_prior.checkpoint.run_dir import write_json
from i2i_prior.config import config_hash
from i2i_prior.training.telemetry.metric_writer import read_metrics

FILE = "result.json"
_MEASURED = ("validation/", "eval/")


def write_result(
    workdir: Path, config: ConfigDict, step: int, outcome: str
) -> None:
    """Writes result.json atomically.

    Args:
      workdir: the run directory, its metrics.jsonl whole.
      config: of the run.
      step: the last update.
      outcome: "done", or "diverged".

    Raises:
      UserError: if it cannot be written.
    """
    document = {
        "outcome": outcome,
        "step": step,
        "steps": config.train.steps,
        "examples": step * config.data.batch_size,
        "config_hash": config_hash(config),
        "time": round(time.time(), 3),
        "metrics": last_metrics(workdir),
    }
    write_json(workdir / FILE, document)


def last_metrics(workdir: Path) -> dict[str, Any]:
    """Last value of each validation loss and metric, and `train_loss`, the
    mean over the last tenth of the logged losses; None for NaN."""
    lines = read_metrics(workdir)
    losses = [line["loss"] for line in lines if "loss" in line]
    last = losses[-max(1, len(losses) // 10) :]
    found = {"train_loss": sum(last) / len(last)} if last else {}
    for line in lines:
        found |= {k: v for k, v in line.items() if k.startswith(_MEASURED)}
    return {k: v if math.isfinite(v) else None for k, v in found.items()}
