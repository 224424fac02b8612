"""Sample grid: held-out images, each with variations drawn with the EMA."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from i2i_prior.checkpoint.train_state import TrainState
from i2i_prior.distributed import runtime
from i2i_prior.evaluation.sampling import held_out_crops
from i2i_prior.inference.generator import generate_for
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

    def done(self, step: int) -> bool:
        return self._path(step).exists()

    def run(self, state: TrainState, step: int) -> tuple[Scalars, Images]:
        config, section = self.context.config, self.context.config.sample
        crops = held_out_crops(config, self._source, section.conditions)
        images, views = map(np.concatenate, zip(*crops, strict=True))
        generated = generate_for(
            self.context.generator,
            state.ema_parameters(),
            np.repeat(views, section.variations, axis=0),
            guidance=section.guidance,
            options=SampleOptions.from_config(section),
            seed=config.seed,
            batch_size=config.evaluate.batch_size,
            progress=lambda _: self.context.check(),
        )
        shape = len(images), section.variations, *generated.shape[1:]
        grid = image_grid.condition_grid(images, generated.reshape(shape))
        if runtime.is_primary():
            self._path(step).parent.mkdir(exist_ok=True)
            image_grid.save_png(self._path(step), grid)
        return {}, {"samples": grid}

    def _path(self, step: int) -> Path:
        return self.context.workdir / "samples" / f"{step}.png"
