"""The story of a run, told once, top to bottom.

Resume is the same command on the same workdir: the newest checkpoint decides
where the story goes on.
"""

from __future__ import annotations

import contextlib
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from i2i_prior import metadata, workdir
from i2i_prior.checkpoint import Checkpoints
from i2i_prior.data.pipeline import BrokenTally, Pipeline
from i2i_prior.data.sources import Source, open_source
from i2i_prior.looking import Looking
from i2i_prior.metrics import MetricWriter, Progress
from i2i_prior.parallel import mesh as meshes
from i2i_prior.preemption import (
    DIVERGED,
    DONE,
    REQUEUE,
    Interrupted,
    Preemption,
)
from i2i_prior.program import Program, build, data_options, to_device
from i2i_prior.report import write_report
from i2i_prior.restoring import restore_or_init
from i2i_prior.step import TrainState
from i2i_prior.throughput import Throughput, mfu
from i2i_prior.validate import validate


@dataclass
class Run:
    """The parts of a run that meet in the loop."""

    config: ConfigDict
    workdir: Path
    program: Program
    source: Source
    checkpoints: Checkpoints
    writer: MetricWriter
    looking: Looking
    tally: BrokenTally
    throughput: Throughput
    flops: float


def train(config: ConfigDict, directory: str | Path) -> int:
    """Trains to `train.steps`, from wherever the workdir stands.

    Args:
      config: see `config.FIELDS`.
      directory: the run directory, made if absent.

    Returns:
      0 done; 75 saved on a signal, run the same command to go on; 65
      diverged, the last good checkpoint is kept.

    Raises:
      UserError: for a mistake in config, data or workdir, or a full disk.
    """
    directory = Path(directory)
    validate(config, jax.device_count())
    workdir.check(directory, config)
    program = build(config, meshes.make_mesh(**config.mesh))
    source = open_source(config.data.source)
    pipeline = Pipeline(
        source, data_options(config), jax.process_index(), jax.process_count()
    )
    held_out = open_source(config.data.held_out or config.data.source)
    pipeline.batch(0)  # unreadable data shows before a workdir is claimed
    checkpoints = Checkpoints(directory, config.train.checkpoint_keep)
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
        # Only now, so that a start that fails leaves nothing behind.
        workdir.claim(directory, config)
        facts = metadata.collect(config, program, source)
        workdir.write_json(directory / "metadata.json", facts)
        start = int(state.step)
        writer = MetricWriter(directory, config.train.tensorboard)
        with contextlib.closing(writer):
            writer.rewind(start)
            run = Run(
                config=config,
                workdir=directory,
                program=program,
                source=source,
                checkpoints=checkpoints,
                writer=writer,
                looking=Looking(
                    config,
                    program.task,
                    held_out,
                    directory,
                    preemption.check,
                ),
                tally=BrokenTally(source),
                throughput=Throughput(config.data.batch_size, start),
                flops=facts["flops_per_step"],
            )
            say(metadata.headline(config, facts, origin))
            return _loop(run, state, pipeline, preemption)


def _loop(
    run: Run, state: TrainState, pipeline: Pipeline, preemption: Preemption
) -> int:
    config, total = run.config, run.config.train.steps
    start = step = int(state.step)
    metrics = None
    progress = Progress(total, start, config.name)
    sharding = meshes.batch_sharding(run.program.mesh)
    batches = pipeline.batches_from(start)
    try:
        # Looking comes first, for what a run that was cut has not drawn.
        while (seen := _look(run, state, step)) and step < total:
            if preemption.requested:
                break
            batch = next(batches)
            run.tally.add(batch)
            batch = to_device(batch, sharding)
            if step == start:
                state, metrics = _first_step(run, state, batch, progress)
            else:
                state, metrics = run.program.step(state, batch)
            step += 1
            if due(step, config.train.log_every) or step == start + 1:
                run.tally.check(config.data.max_broken)
                if not _finite(_log(run, step, metrics, progress)):
                    return _diverged(run, step)
            else:
                progress.update(step)
            if due(step, config.train.checkpoint_every) or step == total:
                if not _finite(metrics):
                    return _diverged(run, step)
                with run.throughput.pause("checkpoint"):
                    run.checkpoints.save(state)
    finally:
        batches.close()
        progress.close()
    if step >= total and seen:
        run.checkpoints.wait()
        return _finish(run, step)
    if not _finite(metrics):
        return _diverged(run, step)
    run.checkpoints.save(state)
    run.checkpoints.wait()
    return _preempted(run, step, preemption.requested)


def _first_step(run: Run, state: TrainState, batch: Any, progress: Progress):
    """Compiles; rates and the time left count from its end."""
    with run.throughput.pause("compile"):
        result = jax.block_until_ready(run.program.step(state, batch))
    step = int(result[0].step)
    run.throughput.window(step)
    progress.restart(step)
    return result


def _log(
    run: Run, step: int, metrics: Any, progress: Progress
) -> dict[str, float]:
    values = {name: float(v) for name, v in jax.device_get(metrics).items()}
    values["learning_rate"] = float(run.program.schedule(step - 1))
    if run.tally.broken:
        values["broken"] = run.tally.broken
    rates = run.throughput.window(step)
    if not rates["steps_per_second"]:  # the first step, which compiled
        rates = {}
    else:
        utilisation = mfu(
            run.flops,
            rates["steps_per_second"],
            jax.device_count(),
            jax.devices()[0].device_kind,
        )
        if utilisation is not None:
            rates["mfu"] = utilisation
    run.writer.scalars(step, {**values, **rates})
    progress.update(
        step,
        loss=values["loss"],
        examples_per_second=rates.get("examples_per_second"),
        mfu=rates.get("mfu"),
    )
    return values


def _look(run: Run, state: TrainState, step: int) -> bool:
    """Draws and scores what is due and not there; False if a signal came."""
    train, looking = run.config.train, run.looking

    def wanted(every: int, path: Path) -> bool:
        last = every > 0 and step == train.steps
        return (last or due(step, every)) and not path.exists()

    with run.throughput.pause("looking"):
        try:
            # A grid of the first step would show noise.
            if step and wanted(train.sample_every, looking.grid_path(step)):
                looking.sample(state.ema_parameters(), step, run.writer)
            if wanted(train.evaluate_every, looking.scores_path(step)):
                looking.evaluate(state.ema_parameters(), step, run.writer)
        except Interrupted:
            return False
    return True


def _finish(run: Run, step: int) -> int:
    if run.tally.broken:
        names = run.tally.names
        workdir.write_json(run.workdir / "broken.json", names)
        say(
            f"{run.tally.broken} examples had unreadable images, replaced: "
            f"{', '.join(names[:3])} (all in {run.workdir}/broken.json)"
        )
    run.writer.close()
    say(f"done, step {step}; {write_report(run.workdir)}")
    return DONE


def _preempted(run: Run, step: int, signal_name: str) -> int:
    say(
        f"{signal_name}: saved step {step} in {run.workdir}/checkpoints; run "
        "the same command to resume"
    )
    return REQUEUE


def _diverged(run: Run, step: int) -> int:
    run.checkpoints.wait()
    latest = run.checkpoints.latest()
    good = (
        f"the last good checkpoint is {run.workdir}/checkpoints/{latest}"
        if latest is not None
        else "no checkpoint had been saved yet"
    )
    say(
        f"error: the loss is not finite at step {step}; {good}; lower "
        "optim.learning_rate or optim.clip_norm in a new workdir"
    )
    return DIVERGED


def _finite(values: Any) -> bool:
    if values is None:  # no step was done here
        return True
    wanted = ("loss", "grad_norm")
    return all(math.isfinite(float(values[name])) for name in wanted)


def due(step: int, every: int) -> bool:
    """Whether something done every `every` steps is due after this one."""
    return every > 0 and step % every == 0


def say(text: str) -> None:
    """One line for the person, on stderr, from the first host only."""
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)
