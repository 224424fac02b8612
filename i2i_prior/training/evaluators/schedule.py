"""What is due after a step: sample grids, scores, validation losses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from i2i_prior.checkpoint.train_state import (
    TrainState,
)
from i2i_prior.distributed import runtime
from i2i_prior.training.loop_state import Run
from i2i_prior.training.resilience.preemption import Interrupted


def look(
    run: Run,
    state: TrainState,
    step: int,
    save: Callable[[Run, TrainState, int], None],
) -> bool:
    """Draws and scores what is due and not there; False if a signal came.

    The pipeline's threads go on making batches meanwhile.

    Args:
      run: all of it.
      state: of the step.
      step: updates done.
      save: saves the state, where its scores are the best so far.
    """
    config, looking, validation = run.config, run.looking, run.validation
    train = config.train

    def asked(every: int) -> bool:
        return due(step, every) or (every > 0 and step == train.steps)

    def there(where: Callable[[int], Path]) -> bool:
        # The first process writes it, and others may see it late.
        path = where(step)
        return bool(runtime.any_process(path.name, path.exists()))

    # A grid of the first step would show noise, and its loss is known.
    grid = step and asked(train.sample_every) and not there(looking.grid_path)
    scores = asked(train.evaluate_every) and not there(looking.scores_path)
    losses = bool(step and validation and asked(config.validation.every))
    if losses and validation and there(validation.path):
        validation.log_again(step, run.writer)
        losses = False
    if grid or scores or losses:
        run.journal.drain()
        with run.ledger.spend("looking"):
            try:
                if losses and validation:
                    validation.measure(state, step, run.writer)
                if grid:
                    looking.sample(state.ema_parameters(), step, run.writer)
                if scores:
                    looking.evaluate(state.ema_parameters(), step, run.writer)
            except Interrupted:
                return False
    if run.best.metric and asked(train.evaluate_every):
        # Also where the scores were there: the run that left them may have
        # been cut before it saved their checkpoint.
        result = looking.scores(step)
        run.best.consider(result, lambda: save(run, state, step))
    return True


def due(step: int, every: int) -> bool:
    """Whether something done every `every` steps is due after this one."""
    return every > 0 and step % every == 0
