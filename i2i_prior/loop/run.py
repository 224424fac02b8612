"""The parts of a run, and who speaks for it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from i2i_prior.checkpoint import Checkpoints
from i2i_prior.data.broken import BrokenTally
from i2i_prior.data.cached import CachedPipeline
from i2i_prior.data.pipeline import Pipeline
from i2i_prior.loop.best import Best
from i2i_prior.loop.goodput import Ledger
from i2i_prior.loop.journal import Journal
from i2i_prior.loop.looking import Looking
from i2i_prior.loop.preemption import Preemption
from i2i_prior.loop.profiling import StepProfiler
from i2i_prior.loop.rollback import Rollbacks
from i2i_prior.loop.validation import Validation
from i2i_prior.metrics import MetricWriter
from i2i_prior.parallel.rows import Rows
from i2i_prior.program import Program


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
    looking: Looking
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
