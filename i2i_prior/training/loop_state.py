"""Parts of a run that meet in the training loop, and how they are built."""

import contextlib
from collections.abc import Iterator
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
from i2i_prior.training.input_pipeline import TrainingData
from i2i_prior.training.resilience.preemption import Preemption
from i2i_prior.training.resilience.rollback import Rollbacks
from i2i_prior.training.setup import Program
from i2i_prior.training.telemetry.goodput import GoodputTimer
from i2i_prior.training.telemetry.metric_buffer import MetricBuffer
from i2i_prior.training.telemetry.metric_writer import MetricWriter
from i2i_prior.training.telemetry.profiler import StepProfiler


class LoopState:
    """Parts of a run that meet in the loop. Writes nothing by itself, so that
    a start that fails leaves no workdir behind.

    `timer` has begun with the run, `flops` are of one step, `profile_steps`
    the first and last update of which a trace is taken.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        program: Program,
        data: TrainingData,
        timer: GoodputTimer,
        flops: float,
        profile_steps: tuple[int, int] | None,
    ) -> None:
        write, section = runtime.is_primary(), config.train
        self.config, self.workdir, self.program = config, workdir, program
        self.data, self.timer = data, timer
        self.checkpoints = Checkpoints(workdir, section.checkpoint_keep)
        self.writer = MetricWriter(workdir, section.tensorboard, write)
        self.buffer = MetricBuffer(
            config, self.writer, timer, program.schedule, flops
        )
        self.profiler = StepProfiler(workdir / "profile", profile_steps, timer)
        self.rollbacks = Rollbacks(workdir, write)
        self.preemption = Preemption()
        self.evaluators: list[Evaluator] = []
        self.compiled: set[Any] = set()  # shapes of batches, see `_dispatch`
        self._saved_at = monotonic()

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Builds the evaluators, notes signals, closes all parts at the end.

        UserError if images cannot be opened, or a disk is full.
        """
        with (
            self.preemption,
            self.checkpoints.full_disk_errors(),
            contextlib.closing(self.checkpoints),
            contextlib.closing(self.writer),
            contextlib.closing(self.profiler),
        ):
            context = EvaluatorContext(
                config=self.config,
                task=self.program.task,
                mesh=self.program.mesh,
                workdir=self.workdir,
                checkpoints=self.checkpoints,
                save=self.save,
                check=self.preemption.check,
            )
            self.evaluators = build_evaluators(context)
            yield

    @property
    def checkpoint_overdue(self) -> bool:
        """True if the last one is older than `train.checkpoint_minutes`."""
        limit = 60 * self.config.train.checkpoint_minutes
        return 0 < limit <= monotonic() - self._saved_at

    def save(self, state: TrainState, step: int) -> None:
        """Saves a state; every loss up to it must be known to be good."""
        with self.timer.timed("checkpoint"):
            self.timer.mark(step)
            self.timer.save()
            self.checkpoints.save(state)
        self._saved_at = monotonic()

    def restore(self) -> tuple[TrainState, str]:
        """Restores or initialises the state; see `restore_or_init`."""
        return restore_or_init(
            self.checkpoints,
            self.program.abstract,
            self.program.initialise,
            self.config.train.init_from,
        )
