"""Metrics of EMA samples on held-out images: `evaluate.metrics`."""

import functools
import math
import time
from pathlib import Path

from i2i_prior.checkpoint.run_dir import read_json
from i2i_prior.checkpoint.train_state import TrainState
from i2i_prior.distributed import runtime
from i2i_prior.evaluation.condition_matching import encoder_embedder
from i2i_prior.evaluation.evaluate import collect_reference, evaluate_samples
from i2i_prior.evaluation.result import (
    result_path,
    with_sampling,
    write_evaluation,
)
from i2i_prior.evaluation.sample_store import SampleStore
from i2i_prior.evaluation.sampling import sample_images
from i2i_prior.evaluation.sets.collect import Collected
from i2i_prior.inference.generator import Generator
from i2i_prior.io.progress import Progress
from i2i_prior.training.evaluators.base import (
    Evaluator,
    EvaluatorContext,
    Images,
    Scalars,
)


class Metrics(Evaluator):
    """Writes evaluations/STEP-FEATURES.json and .png, logs "eval/METRIC"."""

    name = "metrics"
    at_start = True
    files = ("evaluations/*.json", "evaluations/*.png")

    def __init__(self, context: EvaluatorContext) -> None:
        super().__init__(context, context.config.train.evaluate_every)
        self._source = context.held_out

    def run(self, state: TrainState, step: int) -> tuple[Scalars, Images]:
        began = time.monotonic()
        config, spec = self.context.config, self.context.eval_spec
        section, generator = config.evaluate, self.context.generator
        parameters = state.ema_parameters()
        if spec.truncate:
            generator = Generator(generator.task, generator.mesh, truncate=True)
        progress = Progress(
            section.num_samples,
            description="evaluating",
            write=runtime.is_primary(),
        )

        def done(count: int) -> None:
            self.context.check()
            progress.update(count)

        samples = sample_images(
            config, self._source, generator, parameters, SampleStore(), done
        )
        result, picture = evaluate_samples(
            samples,
            spec,
            lambda: self._reference,
            encoder_embedder(generator, parameters, section.batch_size),
            batch_size=section.batch_size,
        )
        progress.close()
        result = with_sampling(config, step, result)
        result["seconds"] = round(time.monotonic() - began, 1)
        if runtime.is_primary():
            write_evaluation(self.path(step), result, picture)
        return _scalars(result["metrics"]), {}

    def stored(self, step: int) -> Scalars:
        return _scalars(read_json(self.path(step))["metrics"])

    def path(self, step: int) -> Path:
        extractor = self.context.eval_spec.extractor
        return result_path(self.context.workdir, step, extractor)

    @functools.cached_property
    def _reference(self) -> Collected:
        """Statistics that samples are compared with, collected once a run."""
        return collect_reference(
            self.context.config, self._source, self.context.eval_spec
        )


def _scalars(metrics: dict[str, float | None]) -> Scalars:
    return {
        f"eval/{name}": math.nan if value is None else value
        for name, value in metrics.items()
    }
