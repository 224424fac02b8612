"""How a run ends: what is said, and the exit code."""

from __future__ import annotations

from i2i_prior.checkpoint import run_dir
from i2i_prior.distributed import runtime
from i2i_prior.training.loop_state import (
    Run,
    primary,
    say,
)
from i2i_prior.training.resilience.loss_spikes import LossSpike
from i2i_prior.training.resilience.preemption import (
    DIVERGED,
    DONE,
    REQUEUE,
)
from i2i_prior.training.telemetry.run_report import write_report
from i2i_prior.training.telemetry.run_result import write_result

_NAMED = 10_000  # broken images in broken.json


def finish(run: Run, step: int) -> int:
    """All steps are done: names broken images, writes the report."""
    run.tally.share()
    # Of a run of many processes some, so that they fit into a message.
    most = max(_NAMED // runtime.count(), 10)
    names = run.tally.names(most) if run.tally.broken else []
    if not primary():
        return DONE
    if names:
        run_dir.write_json(run.workdir / "broken.json", names)
        say(
            f"{run.tally.broken} examples had unreadable images, replaced: "
            f"{', '.join(names[:3])} (more in {run.workdir}/broken.json)"
        )
    run.writer.close()
    run.profiler.close()
    run.ledger.save(done=True)
    write_result(run.workdir, run.config, step, "done")
    say(f"done, step {step}; {write_report(run.workdir)}")
    return DONE


def preempted(run: Run, step: int, signal_name: str) -> int:
    """A signal came, and `step` is saved."""
    run.ledger.save()
    say(
        f"{signal_name}: saved step {step} in {run.workdir}/checkpoints; run "
        "the same command to resume"
    )
    return REQUEUE


def diverged(run: Run, bad: LossSpike) -> int:
    """The loss is bad once more than `train.max_rollbacks` allows."""
    run.checkpoints.wait()
    run.ledger.save()
    if primary():
        write_result(run.workdir, run.config, bad.step, "diverged")
    steps, times = run.checkpoints.steps(), len(run.rollbacks)
    if steps and run.rollbacks.spoilt(steps[-1], bad):
        steps.pop()
    good = (
        f"the last good checkpoint is {run.workdir}/checkpoints/{steps[-1]}"
        if steps
        else "there is no good checkpoint yet"
    )
    again = f", after {times} rollback{'s' * (times > 1)}" * (times > 0)
    say(
        f"error: {bad}{again}; {good}; lower optim.learning_rate or "
        "optim.clip_norm in a new workdir"
    )
    return DIVERGED
