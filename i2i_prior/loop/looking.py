"""What a run shows while it trains: sample grids and scores."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from i2i_prior import pictures
from i2i_prior.data.sources import Source
from i2i_prior.evaluation.evaluate import evaluate, held_out
from i2i_prior.evaluation.features import load_features
from i2i_prior.evaluation.generate import (
    Generator,
    SampleOptions,
    generate_for,
)
from i2i_prior.hosts import distributed
from i2i_prior.metrics import MetricWriter, Progress
from i2i_prior.models.functional import Flat
from i2i_prior.tasks.i2i import I2ITask
from i2i_prior.workdir import write_json


class Looking:
    """Draws and scores EMA samples on held-out images.

    All processes of a run do so together; the first writes what comes out.

    Args:
      config, task: of the run.
      source: held-out images.
      directory: the run directory.
      check: called between batches of images; raises to stop there.
      mesh: of the parameters, where they are sharded.
    """

    def __init__(
        self,
        config: ConfigDict,
        task: I2ITask,
        source: Source,
        directory: Path,
        check: Callable[[], None] = lambda: None,
        mesh: Mesh | None = None,
    ):
        self._config = config
        self._generator = Generator(task, mesh)
        self._source = source
        self._directory = directory
        self._check = check
        name = load_features(config.evaluate.features).name
        self._scores = f"{name.replace('/', '_')}.json"

    def grid_path(self, step: int) -> Path:
        """Where the sample grid of a step is."""
        return self._directory / "samples" / f"{step}.png"

    def scores_path(self, step: int) -> Path:
        """Where the scores of a step are, over the config's features."""
        folder = self._directory / "evaluations"
        return folder / f"{step:08d}-{self._scores}"

    def sample(self, parameters: Flat, step: int, writer: MetricWriter) -> None:
        """Writes samples/STEP.png: conditions beside their variations."""
        section = self._config.sample
        images, views = held_out(self._config, self._source, section.conditions)
        generated = generate_for(
            self._generator,
            parameters,
            np.repeat(views, section.variations, axis=0),
            guidance=section.guidance,
            options=SampleOptions.from_config(section),
            seed=self._config.seed,
            batch_size=self._config.evaluate.batch_size,
            progress=lambda _: self._check(),
        )
        grid = pictures.condition_grid(
            images,
            generated.reshape(
                len(images), section.variations, *generated.shape[1:]
            ),
        )
        if not distributed.is_first():
            return
        path = self.grid_path(step)
        path.parent.mkdir(exist_ok=True)
        pictures.save_png(path, grid)
        writer.image(step, "samples", grid)

    def evaluate(
        self, parameters: Flat, step: int, writer: MetricWriter | None
    ) -> dict[str, Any]:
        """Writes evaluations/STEP.json and logs its metrics."""
        began = time.monotonic()
        total = self._config.evaluate.num_samples
        first = distributed.is_first()
        progress = Progress(total, description="evaluating", write=first)

        def advance(done: int) -> None:
            self._check()
            progress.update(done)

        result, _, _ = evaluate(
            self._config,
            self._generator,
            parameters,
            self._source,
            progress=advance,
        )
        progress.close()
        result = {
            "step": step,
            **result,
            "seconds": round(time.monotonic() - began, 1),
        }
        if first:
            write_json(self.scores_path(step), result)
        if writer is not None:
            writer.scalars(
                step,
                {f"eval/{k}": v for k, v in result["metrics"].items()},
            )
        return result
