"""Protocol of evaluators: measurements of a run's state every so many steps.

An evaluator is one class in a file of this folder and one entry in
`registry.EVALUATORS`; the loop runs all that are due with one call.
"""

import abc
import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from i2i_prior.checkpoint.checkpointer import Checkpoints
from i2i_prior.checkpoint.train_state import TrainState
from i2i_prior.data.record import Source
from i2i_prior.evaluation.eval_spec import EvalSpec
from i2i_prior.inference.generator import Generator
from i2i_prior.tasks.base import Task
from i2i_prior.training.input_pipeline import open_held_out

Scalars = Mapping[str, float]
Images = Mapping[str, np.ndarray]


@dataclass
class EvaluatorContext:
    """Parts of a run that evaluators are built from."""

    config: ConfigDict
    task: Task
    mesh: Mesh
    workdir: Path
    checkpoints: Checkpoints
    save: Callable[[TrainState, int], None]  # saves the state of a step
    # Raises Interrupted once a signal has come; long work polls it.
    check: Callable[[], None]

    @functools.cached_property
    def held_out(self) -> Source:
        """Images that samples are conditioned on; UserError if not opened."""
        return open_held_out(self.config)

    @functools.cached_property
    def generator(self) -> Generator:
        """Sampler shared by evaluators, so that it is compiled once."""
        return Generator(self.task, self.mesh)

    @functools.cached_property
    def eval_spec(self) -> EvalSpec:
        """Metrics and features of the `evaluate` section."""
        return EvalSpec.from_config(self.config)


class Evaluator(abc.ABC):
    """Measures the state every `every` steps (0: never) and after the last one.

    All processes of a run make the same calls; the first one writes.
    """

    name: str  # key in `registry.EVALUATORS`, used in messages
    at_start = False  # also run before the first step
    timed_as = "eval"  # kind of its seconds in goodput.json
    # Glob patterns, below the run directory, of results named by their step.
    files: tuple[str, ...] = ()

    def __init__(self, context: EvaluatorContext, every: int) -> None:
        self.context, self.every = context, every

    def due(self, step: int) -> bool:
        """Returns True if the state after `step` updates is to be measured."""
        if not step:
            return self.at_start and self.every > 0
        last = self.every > 0 and step == self.context.config.train.steps
        return last or is_due(step, self.every)

    def path(self, step: int) -> Path:
        """File that holds the result of a step once it is done."""
        raise NotImplementedError

    def done(self, step: int) -> bool:
        """Returns True if the result of a step is on disk."""
        return self.path(step).exists()

    @abc.abstractmethod
    def run(self, state: TrainState, step: int) -> tuple[Scalars, Images]:
        """Measures a state and writes the result.

        Returns scalars for metrics.jsonl, and images uint8 (H, W, 3) for
        TensorBoard, by name. Interrupted if a signal came; nothing is written
        then.
        """

    def stored(self, step: int) -> Scalars:
        """Scalars of a step that is done, read from its file."""
        return {}

    def forget_after(self, step: int) -> None:
        """Deletes results of later steps, after a rollback to `step`."""
        for pattern in self.files:
            for path in self.context.workdir.glob(pattern):
                number = re.match(r"\d+", path.name)
                if number and int(number[0]) > step:
                    path.unlink(missing_ok=True)


def is_due(step: int, every: int) -> bool:
    """Returns True if `step` is a multiple of `every`, and `every` not 0."""
    return every > 0 and step % every == 0
