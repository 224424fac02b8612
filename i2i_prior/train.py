"""Training from the first step to the last: mesh, data, state, loop.

A run is resumed by the same command on the same workdir: it goes on from the
newest checkpoint.
"""

import contextlib
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from i2i_prior.checkpoint import run_dir
from i2i_prior.checkpoint.train_state import TrainState
from i2i_prior.config import HOST_LOCAL, flatten
from i2i_prior.distributed import runtime
from i2i_prior.io.files import local_path
from i2i_prior.parallel.mesh import make_mesh
from i2i_prior.training import metadata
from i2i_prior.training.evaluators.base import is_due
from i2i_prior.training.evaluators.registry import run_due
from i2i_prior.training.input_pipeline import open_data
from i2i_prior.training.loop_state import LoopState
from i2i_prior.training.resilience.exit_status import (
    end_diverged,
    end_done,
    end_preempted,
)
from i2i_prior.training.resilience.rollback import LossSpike
from i2i_prior.training.resilience.run_lock import announce_leaving, run_lock
from i2i_prior.training.setup import build
from i2i_prior.training.telemetry.goodput import DATA_WAIT, GoodputTimer
from i2i_prior.training.validate import validate


def train(
    config: ConfigDict,
    directory: str | Path,
    profile_steps: tuple[int, int] | None = None,
) -> int:
    """Trains to `train.steps`, from the newest checkpoint of the workdir.

    The `directory` of the run is made if absent; `profile_steps` are the first
    and last update of which a trace is taken.

    Returns:
      0 done; 75 saved on a signal, run the same command to go on; 65
      diverged, the last good checkpoint is kept.

    Raises:
      UserError: for a mistake in config, data or workdir, or a full disk.
    """
    workdir = local_path(directory)
    validate(config, jax.device_count())
    run_dir.check(workdir, config)
    with run_lock(workdir):
        return _train_alone(config, workdir, profile_steps)


def _train_alone(
    config: ConfigDict, workdir: Path, profile_steps: tuple[int, int] | None
) -> int:
    """Trains in a workdir that is this run's; returns the exit code."""
    goodput = workdir / "goodput.json" if runtime.is_primary() else None
    timer = GoodputTimer(goodput)
    shared = {n: v for n, v in flatten(config).items() if n not in HOST_LOCAL}
    runtime.assert_equal("config", shared)

    program = build(config, make_mesh(**config.mesh))
    data = open_data(config, workdir, program.mesh)
    facts = metadata.collect(config, program, data.source)
    compared = {
        "newest checkpoint": run_dir.newest_checkpoint(workdir),
        "data_fingerprint": facts["data_fingerprint"],
    }
    runtime.assert_equal("checkpoint and data", compared)

    flops = facts["flops_per_step"]
    loop = LoopState(
        config, workdir, program, data, timer, flops, profile_steps
    )
    with loop.opened():
        state, origin = loop.restore()
        # Claimed only now, so that a start that fails leaves nothing behind.
        if runtime.is_primary():
            run_dir.claim(workdir, config)
            run_dir.write_json(workdir / "metadata.json", facts)
        loop.writer.open(last_step=int(state.step))
        runtime.print_once(metadata.first_lines(config, facts, origin))
        return _train_to_the_end(loop, state)


def _train_to_the_end(loop: LoopState, state: TrainState) -> int:
    """Steps until done, preempted or diverged; returns the exit code."""
    while True:
        try:
            state, stop = _run_steps(loop, state)
            break
        except LossSpike as error:
            # Without the traceback, whose frames hold a state in memory.
            spike = error.with_traceback(None)
        if len(loop.rollbacks) >= loop.config.train.max_rollbacks:
            return end_diverged(loop, spike)
        state = _roll_back(loop, spike)
    step = int(state.step)
    loop.checkpoints.wait()
    return end_preempted(loop, step, stop) if stop else end_done(loop, step)


def _run_steps(loop: LoopState, state: TrainState) -> tuple[TrainState, str]:
    """Steps until the last one or a signal; the state is saved then.

    Returns:
      the state, and the name of the signal, "" if all steps are done.

    Raises:
      LossSpike: if loss or gradient are not those of a healthy run.
    """
    train, buffer, tally = loop.config.train, loop.buffer, loop.data.tally
    step = int(state.step)
    batches = loop.data.batches(loop.rollbacks, step, train.device_prefetch)
    runtime.sync_point("the first step")  # all files can be read from here on
    loop.timer.begin(step)
    buffer.begin(step)
    with contextlib.closing(batches), contextlib.closing(buffer):
        while True:
            # First, for evaluations that an interrupted run has left out.
            evaluated = run_due(loop.evaluators, state, step, buffer)
            if evaluated and step >= train.steps:
                return state, ""
            stop, save = loop.preemption.poll(loop.checkpoint_overdue)
            if stop:
                announce_leaving(loop.workdir)
                _save(loop, state, step)
                return state, stop
            with loop.timer.timed(DATA_WAIT):
                host_batch, batch = next(batches)
            tally.add(host_batch)
            with loop.profiler.step(step + 1, buffer.drain):
                state, metrics = _dispatch(loop, state, batch)
            step += 1
            if is_due(step, train.log_every):
                tally.check(loop.config.data.max_broken)
            counts = {"broken": tally.broken, "rollbacks": len(loop.rollbacks)}
            buffer.add(step, metrics, counts)
            save = save or is_due(step, train.checkpoint_every)
            if save or step == train.steps:
                _save(loop, state, step)


def _dispatch(loop: LoopState, state: TrainState, batch: Any):
    """Starts one step; the first of each shape compiles and is waited for."""
    shapes = tuple(sorted((n, a.shape) for n, a in batch.items()))
    if shapes in loop.compiled:
        return loop.program.step(state, batch)
    with loop.timer.timed("compile"):
        result = jax.block_until_ready(loop.program.step(state, batch))
    if not loop.compiled:
        loop.buffer.restart_clock(int(result[0].step))
    loop.compiled.add(shapes)
    return result


def _save(loop: LoopState, state: TrainState, step: int) -> None:
    """Saves a state once every loss up to it is known to be good."""
    loop.buffer.drain()
    loop.save(state, step)


def _roll_back(loop: LoopState, spike: LossSpike) -> TrainState:
    """Restores the last good state; the batches since then are skipped."""
    loop.timer.restart()
    loop.checkpoints.wait()
    good = loop.checkpoints.latest() or 0
    if good and loop.rollbacks.is_checkpoint_bad(good, spike):
        runtime.print_once(
            f"checkpoint {good} is moved to rejected/: its loss is bad with "
            "other batches too"
        )
        loop.checkpoints.quarantine(good)
        good = loop.checkpoints.latest() or 0
    skipped = loop.rollbacks.add(good, spike)
    runtime.print_once(
        f"{spike}: back to step {good}; batches skipped: {skipped}; rollback "
        f"{len(loop.rollbacks)} of {loop.config.train.max_rollbacks}"
    )
    for evaluator in loop.evaluators:
        evaluator.forget_after(good)
    state, _ = loop.restore()
    loop.writer.open(last_step=good)
    return state
