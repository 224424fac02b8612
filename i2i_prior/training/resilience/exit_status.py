"""Ends of a run: last files, last line, exit code."""

from __future__ import annotations

from i2i_prior.checkpoint import run_dir
from i2i_prior.distributed import runtime
from i2i_prior.training.loop_state import LoopState
from i2i_prior.training.resilience.loss_spikes import LossSpike
from i2i_prior.training.resilience.preemption import DIVERGED, DONE, REQUEUE
from i2i_prior.training.telemetry.run_report import write_report
from i2i_prior.training.telemetry.run_result import write_result

_NAMED = 10_000  # broken images in broken.json


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
