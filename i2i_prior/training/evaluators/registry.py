"""All evaluators by name, and the one call that runs those that are due."""

from collections.abc import Callable, Sequence

from i2i_prior.checkpoint.train_state import TrainState
from i2i_prior.distributed import runtime
from i2i_prior.training.evaluators.base import Evaluator, EvaluatorContext
from i2i_prior.training.evaluators.best_checkpoint import BestCheckpoint
from i2i_prior.training.evaluators.metrics import Metrics
from i2i_prior.training.evaluators.sample_grid import SampleGrid
from i2i_prior.training.evaluators.validation_loss import ValidationLoss
from i2i_prior.training.resilience.preemption import Interrupted
from i2i_prior.training.telemetry.metric_buffer import MetricBuffer
from i2i_prior.training.telemetry.metric_writer import read_metrics

# In the order in which they run; the best checkpoint is chosen by metrics.
EVALUATORS: dict[str, Callable[[EvaluatorContext], Evaluator]] = {
    evaluator.name: evaluator
    for evaluator in (ValidationLoss, SampleGrid, Metrics, BestCheckpoint)
}


def build_evaluators(context: EvaluatorContext) -> list[Evaluator]:
    """Builds all evaluators; UserError if images cannot be opened."""
    return [build(context) for build in EVALUATORS.values()]


def run_due(
    evaluators: Sequence[Evaluator],
    state: TrainState,
    step: int,
    buffer: MetricBuffer,
) -> bool:
    """Runs the evaluators that are due for a state after `step` updates.

    The threads of the input pipeline go on making batches meanwhile. What is
    done is not measured again. The buffer is drained first, so that no state
    of a bad loss is measured.

    Returns False if a signal came; a run that resumes here makes up for the
    rest. LossSpike if a loss up to this step is bad.
    """
    for evaluator in evaluators:
        if not evaluator.due(step):
            continue
        # The first process writes results, and others may see them late.
        if runtime.any_process(evaluator.name, evaluator.done(step)):
            _log_again(evaluator, step, buffer)
            continue
        buffer.drain()
        with buffer.timer.timed(evaluator.timed_as):
            try:
                scalars, images = evaluator.run(state, step)
            except Interrupted:
                return False
            if scalars:
                buffer.writer.scalars(step, scalars)
            for name, image in images.items():
                buffer.writer.image(step, name, image)
    return True


def _log_again(evaluator: Evaluator, step: int, buffer: MetricBuffer) -> None:
    """Logs scalars whose line was dropped when the run resumed before it."""
    if not runtime.is_primary():
        return
    scalars = evaluator.stored(step)
    logged = any(
        line["step"] == step and line.keys() & scalars.keys()
        for line in read_metrics(buffer.writer.workdir)
    )
    if scalars and not logged:
        buffer.writer.scalars(step, scalars)
