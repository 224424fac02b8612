"""The story of a run, told once, top to bottom.

Resume is the same command on the same workdir: the newest checkpoint decides
where the story goes on.
"""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from time import monotonic
from typing import Any

import jax
from ml_collections import ConfigDict

from i2i_prior.checkpoint import run_dir
from i2i_prior.checkpoint.checkpointer import Checkpoints
from i2i_prior.checkpoint.restore import restore_or_init
from i2i_prior.checkpoint.train_state import (
    TrainState,
)
from i2i_prior.config import flatten
from i2i_prior.config.fields import HOST_LOCAL
from i2i_prior.data.broken import BrokenTally
from i2i_prior.distributed import runtime
from i2i_prior.parallel import mesh as meshes
from i2i_prior.parallel.global_arrays import local_rows
from i2i_prior.training import metadata
from i2i_prior.training.device_prefetch import prefetch
from i2i_prior.training.evaluators.best_checkpoint import Best
from i2i_prior.training.evaluators.sample_grid import SampleEvaluator
from i2i_prior.training.evaluators.schedule import (
    due,
    look,
)
from i2i_prior.training.evaluators.validation_loss import Validation
from i2i_prior.training.input_pipeline import (
    make_pipeline,
    open_held_out,
    open_training,
    open_validation,
)
from i2i_prior.training.loop_state import (
    Run,
    primary,
    say,
)
from i2i_prior.training.resilience.exit_status import (
    diverged,
    finish,
    preempted,
)
from i2i_prior.training.resilience.loss_spikes import LossSpike
from i2i_prior.training.resilience.preemption import Preemption
from i2i_prior.training.resilience.rollback import (
    Rollbacks,
    forget_pictures,
)
from i2i_prior.training.setup import (
    build,
    to_device,
)
from i2i_prior.training.telemetry.goodput import (
    DATA_WAIT,
    Ledger,
)
from i2i_prior.training.telemetry.metric_buffer import Journal
from i2i_prior.training.telemetry.metric_writer import MetricWriter
from i2i_prior.training.telemetry.profiler import StepProfiler
from i2i_prior.training.validate import validate


def train(
    config: ConfigDict,
    directory: str | Path,
    profile_steps: tuple[int, int] | None = None,
) -> int:
    """Trains to `train.steps`, from wherever the workdir stands.

    Args:
      config: see `config.FIELDS`.
      directory: the run directory, made if absent.
      profile_steps: first and last update of which a trace is taken.

    Returns:
      0 done; 75 saved on a signal, run the same command to go on; 65
      diverged, the last good checkpoint is kept.

    Raises:
      UserError: for a mistake in config, data or workdir, or a full disk.
    """
    directory = Path(directory)
    ledger = Ledger(directory / "goodput.json" if primary() else None)
    validate(config, jax.device_count())
    run_dir.check(directory, config)
    runtime.assert_equal("config", _shared(config))
    program = build(config, meshes.make_mesh(**config.mesh))
    source = open_training(config)
    run_dir.check_data(directory, source.fingerprint())
    for note in getattr(source, "notes", ()):
        say(f"note: {note}")
    rows = local_rows(
        meshes.batch_sharding(program.mesh), config.data.batch_size
    )
    pipeline = make_pipeline(config, source, rows.here)
    held_out = open_held_out(config)
    validated = open_validation(config)
    pipeline.batch(0)  # unreadable data shows before a workdir is claimed
    checkpoints = Checkpoints(directory, config.train.checkpoint_keep)
    newest = run_dir.newest_checkpoint(directory)
    runtime.assert_equal("checkpoint", {"newest checkpoint": newest})
    with (
        Preemption() as preemption,
        checkpoints.full_disk_explained(),
        contextlib.closing(checkpoints),
    ):
        state, origin = restore_or_init(
            checkpoints,
            program.abstract,
            program.initialise,
            config.train.init_from,
        )
        facts = metadata.collect(config, program, source)
        runtime.assert_equal(
            "data", {"data_fingerprint": facts["data_fingerprint"]}
        )
        # Only now, so that a start that fails leaves nothing behind.
        if primary():
            run_dir.claim(directory, config)
            run_dir.write_json(directory / "metadata.json", facts)
        writer = MetricWriter(
            directory, config.train.tensorboard, write=primary()
        )
        profiler = StepProfiler(directory / "profile", profile_steps, ledger)
        with contextlib.closing(writer), contextlib.closing(profiler):
            writer.rewind(int(state.step))
            run = Run(
                config=config,
                workdir=directory,
                program=program,
                pipeline=pipeline,
                checkpoints=checkpoints,
                rollbacks=Rollbacks(directory, write=primary()),
                preemption=preemption,
                writer=writer,
                journal=Journal(
                    config,
                    directory,
                    writer,
                    ledger,
                    program.schedule,
                    facts["flops_per_step"],
                ),
                ledger=ledger,
                looking=SampleEvaluator(
                    config,
                    program.task,
                    held_out,
                    directory,
                    preemption.check,
                    program.mesh,
                ),
                validation=None
                if validated is None
                else Validation(
                    config,
                    program.task,
                    validated,
                    directory,
                    preemption.check,
                    program.mesh,
                ),
                best=Best(
                    directory,
                    checkpoints,
                    config.evaluate.best_metric,
                    write=primary(),
                ),
                rows=rows,
                tally=BrokenTally(source, rows.counted, runtime.allgather_text),
                profiler=profiler,
                saved_at=monotonic(),
            )
            say(metadata.headline(config, facts, origin))
            return _run(run, state)


def _shared(config: ConfigDict) -> dict[str, Any]:
    """What all processes must have alike: some of it shapes what is learned,
    the rest decides when they meet."""
    flat = flatten(config)
    return {name: flat[name] for name in flat if name not in HOST_LOCAL}


def _run(run: Run, state: TrainState) -> int:
    """Steps until done, stopped or diverged; bad steps are gone back from."""
    while True:
        try:
            state, stop = _steps(run, state)
            break
        except LossSpike as error:
            # Without the traceback, whose frames hold a state in memory.
            bad = error.with_traceback(None)
        if len(run.rollbacks) >= run.config.train.max_rollbacks:
            return diverged(run, bad)
        state = _go_back(run, bad)
    step = int(state.step)
    run.checkpoints.wait()
    return preempted(run, step, stop) if stop else finish(run, step)


def _steps(run: Run, state: TrainState) -> tuple[TrainState, str]:
    """Steps until the last one, or until asked to stop; then all is saved.

    Returns:
      the state, and the signal that it was stopped for, "" where done.

    Raises:
      LossSpike: where loss or gradient are not those of a healthy run.
    """
    train, journal = run.config.train, run.journal
    start = step = int(state.step)
    put = functools.partial(
        to_device,
        sharding=meshes.batch_sharding(run.program.mesh),
        rows=run.rows,
    )
    batches = prefetch(
        run.rollbacks.batches(run.pipeline, start), put, train.device_prefetch
    )
    runtime.sync_point("the first step")  # what was written can be read
    run.ledger.begin(start)
    journal.begin(start)
    with contextlib.closing(batches), contextlib.closing(journal):
        while True:
            # Comes first, for what a run that was cut has not drawn.
            if look(run, state, step, _save) and step >= train.steps:
                return state, ""
            stop, save = _asked(run)
            if stop:
                _save(run, state, step)
                return state, stop
            with run.ledger.spend(DATA_WAIT):
                batch, on_devices = next(batches)
            run.tally.add(batch)
            with run.profiler.step(step + 1, journal.drain):
                state, metrics = _dispatch(run, state, on_devices)
            step += 1
            if due(step, train.log_every):
                run.tally.check(run.config.data.max_broken)
            counts = {
                "broken": run.tally.broken,
                "rollbacks": len(run.rollbacks),
            }
            journal.add(step, metrics, counts)
            save = save or due(step, train.checkpoint_every)
            if save or step == train.steps:
                _save(run, state, step)


def _asked(run: Run) -> tuple[str, bool]:
    """The signal to stop for ("" for none), and whether to save by time."""
    minutes = run.config.train.checkpoint_minutes
    late = 0 < 60 * minutes <= monotonic() - run.saved_at
    return run.preemption.agree(late)


def _dispatch(run: Run, state: TrainState, batch: Any):
    """Starts one step; the first of each shape compiles and is waited for."""
    shapes = tuple(sorted((n, a.shape) for n, a in batch.items()))
    if shapes in run.compiled:
        return run.program.step(state, batch)
    with run.ledger.spend("compile"):
        result = jax.block_until_ready(run.program.step(state, batch))
    if not run.compiled:
        run.journal.compiled(int(result[0].step))
    run.compiled.add(shapes)
    return result


def _save(run: Run, state: TrainState, step: int) -> None:
    """Saves a state once every loss up to it is known to be good."""
    run.journal.drain()
    with run.ledger.spend("checkpoint"):
        run.ledger.mark(step)
        run.ledger.save()
        run.checkpoints.save(state)
    run.saved_at = monotonic()


def _go_back(run: Run, bad: LossSpike) -> TrainState:
    """The last good state, with the batches since then to be skipped."""
    run.ledger.restart()
    run.checkpoints.wait()
    good = run.checkpoints.latest() or 0
    if good and run.rollbacks.spoilt(good, bad):
        say(f"checkpoint {good} is put aside: no loss on it is good")
        run.checkpoints.quarantine(good)
        good = run.checkpoints.latest() or 0
    skipped = run.rollbacks.add(good, bad)
    count, limit = len(run.rollbacks), run.config.train.max_rollbacks
    say(
        f"{bad}: back to step {good}, skipping "
        f"{skipped} batch{'es' * (skipped > 1)} (rollback {count} of {limit})"
    )
    forget_pictures(run.workdir, good)
    run.best.rewind(good)
    state, _ = restore_or_init(
        run.checkpoints,
        run.program.abstract,
        run.program.initialise,
        run.config.train.init_from,
    )
    run.writer.rewind(good)
    return state
