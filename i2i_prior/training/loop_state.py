"""Parts of a run that meet in the training loop, and how they are built."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from ml_collections import ConfigDict

from i2i_prior.checkpoint.checkpointer import Checkpoints
from i2i_prior.checkpoint.restore import restore_or_init
from i2i_prior.checkpoint.train_state import TrainState
from i2i_prior.distributed import runtime
from i2i_prior.training.evaluators.base import Evaluator, EvaluatorContext
from i2i_prior.training.evaluators.registry import build_evaluators
from i2i_prior.training.resilience.preemption import Preemption
from i2i_prior.training.resilience.rollback import Rollbacks
from i2i_prior.training.setup import Program
from i2i_prior.training.telemetry.goodput import GoodputTimer
from i2i_prior.training.telemetry.metric_buffer import MetricBuffer
from i2i_prior.training.telemetry.metric_writer import MetricWriter
from i2i_prior.training.telemetry.profiler import StepProfiler
from i2i_prior.training.training_data import TrainingData


class CheckpointSaver:
    """Saves states, books their time, and knows when the next one is due.

    Args:
      checkpoints: of the run.
      timer: where its seconds are booked.
      minutes: most minutes between two checkpoints, 0 for no limit.
    """

    def __init__(
        self, checkpoints: Checkpoints, timer: GoodputTimer, minutes: float
    ) -> None:
        self._checkpoints, self._timer = checkpoints, timer
        self._seconds, self._saved_at = 60 * minutes, monotonic()

    @property
    def overdue(self) -> bool:
        """True if the last checkpoint is older than the limit."""
        return 0 < self._seconds <= monotonic() - self._saved_at

    def save(self, state: TrainState, step: int) -> None:
        """Saves a state; every loss up to it must be known to be good."""
        with self._timer.timed("checkpoint"):
            self._timer.mark(step)
            self._timer.save()
            self._checkpoints.save(state)
        self._saved_at = monotonic()


@dataclass
class LoopState:
    """Parts of a run that meet in the loop.

    Attributes:
      compiled: shapes of the batches that a step was compiled for.
    """

    config: ConfigDict
    workdir: Path
    program: Program
    data: TrainingData
    checkpoints: Checkpoints
    saver: CheckpointSaver
    evaluators: list[Evaluator]
    rollbacks: Rollbacks
    preemption: Preemption
    timer: GoodputTimer
    writer: MetricWriter
    buffer: MetricBuffer
    profiler: StepProfiler
    compiled: set[Any] = field(default_factory=set)

    def restore(self) -> tuple[TrainState, str]:
        """Restores or initialises the state; see `restore_or_init`."""
        return restore_or_init(
            self.checkpoints,
            self.program.abstract,
            self.program.initialise,
            self.config.train.init_from,
        )


@contextlib.contextmanager
def open_loop(
    config: ConfigDict,
    workdir: Path,
    program: Program,
    data: TrainingData,
    timer: GoodputTimer,
    flops: float,
    profile_steps: tuple[int, int] | None,
) -> Iterator[LoopState]:
    """Builds all parts of the loop, and closes them at the end.

    Signals are noted inside. Nothing is written yet, so that a start that
    fails leaves no workdir behind.

    Args:
      config, workdir, program, data: of the run.
      timer: begun when the run began.
      flops: of one step.
      profile_steps: first and last update of which a trace is taken.

    Raises:
      UserError: if images of an evaluator cannot be opened, or a disk is full.
    """
    write = runtime.is_primary()
    checkpoints = Checkpoints(workdir, config.train.checkpoint_keep)
    writer = MetricWriter(workdir, config.train.tensorboard, write=write)
    profiler = StepProfiler(workdir / "profile", profile_steps, timer)
    saver = CheckpointSaver(checkpoints, timer, config.train.checkpoint_minutes)
    with (
        Preemption() as preemption,
        checkpoints.full_disk_errors(),
        contextlib.closing(checkpoints),
        contextlib.closing(writer),
        contextlib.closing(profiler),
    ):
        context = EvaluatorContext(
            config=config,
            task=program.task,
            mesh=program.mesh,
            workdir=workdir,
            checkpoints=checkpoints,
            save=saver.save,
            check=preemption.check,
        )
        yield LoopState(
            config=config,
            workdir=workdir,
            program=program,
            data=data,
            checkpoints=checkpoints,
            saver=saver,
            evaluators=build_evaluators(context),
            rollbacks=Rollbacks(workdir, write=write),
            preemption=preemption,
            timer=timer,
            writer=writer,
            buffer=MetricBuffer(config, writer, timer, program.schedule, flops),
            profiler=profiler,
        )
