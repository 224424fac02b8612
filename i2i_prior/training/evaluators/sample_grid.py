"""Sample grid: held-out images, each with variations drawn with the EMA."""

from pathlib import Path

from i2i_prior.checkpoint.train_state import TrainState
from i2i_prior.distributed import runtime
from i2i_prior.evaluation.sampling import held_out_examples
from i2i_prior.inference.generator import generate_for, repeat
from i2i_prior.inference.sample_options import SampleOptions
from i2i_prior.report import image_grid
from i2i_prior.training.evaluators.base import (
    Evaluator,
    EvaluatorContext,
    Images,
    Scalars,
)


class SampleGrid(Evaluator):
    """Writes samples/STEP.png every `train.sample_every` steps."""

    name = "sample_grid"
    files = ("samples/*.png",)

    def __init__(self, context: EvaluatorContext) -> None:
        super().__init__(context, context.config.train.sample_every)
        self._source = context.held_out

    def run(self, state: TrainState, step: int) -> tuple[Scalars, Images]:
        config, section = self.context.config, self.context.config.sample
        count = section.conditions
        (example,) = held_out_examples(config, self._source, count, count)
        given = {n: a for n, a in example.items() if n != "image"}
        generated = generate_for(
            self.context.generator,
            state.ema_parameters(),
            repeat(given, section.variations),
            guidance=section.guidance,
            options=SampleOptions.from_config(section),
            seed=config.seed,
            batch_size=config.evaluate.batch_size,
            progress=lambda _: self.context.check(),
        )
        shape = count, section.variations, *generated.shape[1:]
        condition, *targets = self.context.task.columns
        grid = image_grid.condition_grid(
            example[condition],
            generated.reshape(shape),
            example[targets[0]] if targets else None,
        )
        if runtime.is_primary():
            self.path(step).parent.mkdir(exist_ok=True)
            image_grid.save_png(self.path(step), grid)
        return {}, {"samples": grid}

    def path(self, step: int) -> Path:
        return self.context.workdir / "samples" / f"{step}.png"
