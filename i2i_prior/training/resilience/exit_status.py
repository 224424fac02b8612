"""Ends of a run: last files, last line, exit code.

RUN/result.json says how the run ended, with its last measurements.
"""

import time
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from i2i_prior.checkpoint import run_dir
from i2i_prior.config import config_hash
from i2i_prior.distributed import runtime
from i2i_prior.io.files import nan_to_null
from i2i_prior.training.loop_state import LoopState
from i2i_prior.training.resilience.preemption import DIVERGED, DONE, REQUEUE
from i2i_prior.training.resilience.rollback import LossSpike
from i2i_prior.training.telemetry.metric_writer import read_metrics
from i2i_prior.training.telemetry.run_report import write_report

_NAMED = 10_000  # broken images in broken.json
_MEASURED = ("validation/", "eval/")  # metrics of result.json


def end_done(loop: LoopState, step: int) -> int:
    """Names broken images and writes the report, after the last step."""
    tally = loop.data.tally
    tally.share()
    # Fewer of each process in a large run, so that they fit into a message.
    most = max(_NAMED // runtime.count(), 10)
    names = tally.names(most) if tally.broken else []
    if not runtime.is_primary():
        return DONE
    if names:
        file = loop.workdir / "broken.json"
        run_dir.write_json(file, names)
        runtime.print_once(
            f"{tally.broken} examples had unreadable images, replaced: "
            f"{', '.join(names[:3])} (more in {file})"
        )
    loop.writer.close()
    loop.profiler.close()
    loop.timer.save(done=True)
    write_result(loop.workdir, loop.config, step, "done")
    runtime.print_once(f"done, step {step}; {write_report(loop.workdir)}")
    return DONE


def end_preempted(loop: LoopState, step: int, signal_name: str) -> int:
    """Reports a signal; `step` is saved."""
    loop.timer.save()
    runtime.print_once(
        f"{signal_name}: saved step {step} in {loop.workdir}/checkpoints; run "
        "the same command to resume"
    )
    return REQUEUE


def end_diverged(loop: LoopState, spike: LossSpike) -> int:
    """Reports a loss that is bad after `train.max_rollbacks` rollbacks."""
    loop.checkpoints.wait()
    loop.timer.save()
    if runtime.is_primary():
        write_result(loop.workdir, loop.config, spike.step, "diverged")
    steps = loop.checkpoints.steps()
    if steps and loop.rollbacks.is_checkpoint_bad(steps[-1], spike):
        steps.pop()
    good = (
        f"the last good checkpoint is {loop.workdir}/checkpoints/{steps[-1]}"
        if steps
        else "there is no good checkpoint yet"
    )
    runtime.print_once(
        f"error: {spike}; rollbacks: {len(loop.rollbacks)}; {good}; lower "
        "optim.learning_rate or optim.clip_norm in a new workdir"
    )
    return DIVERGED


def write_result(
    workdir: Path, config: ConfigDict, step: int, outcome: str
) -> None:
    """Writes result.json, from a whole metrics.jsonl; `outcome` is "done" or
    "diverged"."""
    document = {
        "outcome": outcome,
        "step": step,
        "steps": config.train.steps,
        "examples": step * config.data.batch_size,
        "config_hash": config_hash(config),
        "time": round(time.time(), 3),
        "metrics": _last_metrics(workdir),
    }
    run_dir.write_json(workdir / "result.json", document)


def _last_metrics(workdir: Path) -> dict[str, Any]:
    """Last value of each validation loss and metric, and `train_loss`, the
    mean over the last tenth of the logged losses; None for NaN."""
    lines = read_metrics(workdir)
    losses = [line["loss"] for line in lines if "loss" in line]
    last = losses[-max(1, len(losses) // 10) :]
    found = {"train_loss": sum(last) / len(last)} if last else {}
    for line in lines:
        found |= {k: v for k, v in line.items() if k.startswith(_MEASURED)}
    return nan_to_null(found)
