"""What a run shows while it trains: sample grids and scores."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from i2i_prior import pictures
from i2i_prior.data.sources import Source
from i2i_prior.evaluation.evaluate import evaluate, held_out
from i2i_prior.evaluation.generate import (
    Generator,
    SampleOptions,
    generate_for,
)
from i2i_prior.metrics import MetricWriter, Progress
from i2i_prior.models.functional import Flat
from i2i_prior.tasks.i2i import I2ITask
from i2i_prior.workdir import write_json


class Looking:
    """Draws and scores EMA samples on held-out images.

    Args:
      config, task: of the run.
      source: held-out images.
      directory: the run directory.
    """

    def __init__(
        self,
        config: ConfigDict,
        task: I2ITask,
        source: Source,
        directory: Path,
    ):
        self._config = config
        self._generator = Generator(task)
        self._source = source
        self._directory = directory

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
        )
        grid = pictures.condition_grid(
            images,
            generated.reshape(
                len(images), section.variations, *generated.shape[1:]
            ),
        )
        folder = self._directory / "samples"
        folder.mkdir(exist_ok=True)
        pictures.save_png(folder / f"{step}.png", grid)
        writer.image(step, "samples", grid)

    def evaluate(
        self, parameters: Flat, step: int, writer: MetricWriter | None
    ) -> dict[str, Any]:
        """Writes evaluations/STEP.json and logs its metrics."""
        began = time.monotonic()
        total = self._config.evaluate.num_samples
        progress = Progress(total, description="evaluating")
        result, _, _ = evaluate(
            self._config,
            self._generator,
            parameters,
            self._source,
            progress=progress.update,
        )
        progress.close()
        result = {
            "step": step,
            **result,
            "seconds": round(time.monotonic() - began, 1),
        }
        stem = f"{step:08d}-{result['features'].replace('/', '_')}"
        write_json(self._directory / "evaluations" / f"{stem}.json", result)
        if writer is not None:
            writer.scalars(
                step,
                {f"eval/{k}": v for k, v in result["metrics"].items()},
            )
        return result
