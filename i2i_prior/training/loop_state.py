"""The parts of a run, and who speaks for it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from i2i_prior.checkpoint.checkpointer import Checkpoints
from i2i_prior.data.broken import BrokenTally
from i2i_prior.data.cached import CachedPipeline
from i2i_prior.data.pipeline import Pipeline
from i2i_prior.parallel.global_arrays import Rows
from i2i_prior.training.evaluators.best_checkpoint import Best
from i2i_prior.training.evaluators.sample_grid import SampleEvaluator
from i2i_prior.training.evaluators.validation_loss import Validation
from i2i_prior.training.resilience.preemption import Preemption
from i2i_prior.training.resilience.rollback import Rollbacks
from i2i_prior.training.setup import Program
from i2i_prior.training.telemetry.goodput import Ledger
from i2i_prior.training.telemetry.metric_buffer import Journal
from i2i_prior.training.telemetry.metric_writer import MetricWriter
from i2i_prior.training.telemetry.profiler import StepProfiler


@dataclass
class Run:
    """The parts of a run that meet in the loop."""

    config: ConfigDict
    workdir: Path
    program: Program
    pipeline: Pipeline | CachedPipeline
    checkpoints: Checkpoints
    rollbacks: Rollbacks
    preemption: Preemption
    writer: MetricWriter
    journal: Journal
    ledger: Ledger
    looking: SampleEvaluator
    validation: Validation | None
    best: Best
    rows: Rows
    tally: BrokenTally
    profiler: StepProfiler
    saved_at: float  # seconds of the monotonic clock
    compiled: set[Any] = field(default_factory=set)  # shapes of batches


def primary() -> bool:
    """Whether this is the one process that writes and speaks."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """One line for the person, on stderr, from the first host only."""
    if primary():
        print(text, file=sys.stderr, flush=True)
