"""What a run shows while it trains: sample grids and scores."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from i2i_prior.checkpoint.run_dir import read_json
from i2i_prior.data.sources import Source
from i2i_prior.distributed import runtime
from i2i_prior.evaluation.condition_matching import embedder
from i2i_prior.evaluation.evaluate import (
    EvalSpec,
    evaluate,
    reference_side,
    wanted,
)
from i2i_prior.evaluation.sample_chunks import (
    held_out,
    of_images,
)
from i2i_prior.evaluation.sample_store import Samples
from i2i_prior.evaluation.score_files import (
    described,
    scores_path,
    write_scores,
)
from i2i_prior.evaluation.sets.collect import Collected
from i2i_prior.inference.generator import (
    Generator,
    SampleOptions,
    generate_for,
)
from i2i_prior.io.progress import (
    Progress,
)
from i2i_prior.models.functional import Flat
from i2i_prior.report import image_grid
from i2i_prior.tasks.base import Task
from i2i_prior.training.telemetry.metric_writer import (
    MetricWriter,
)


class SampleEvaluator:
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
        task: Task,
        source: Source,
        directory: Path,
        check: Callable[[], None] = lambda: None,
        mesh: Mesh | None = None,
    ):
        self._config, self._task = config, task
        self._generator = Generator(task, mesh)
        self._source = source
        self._directory = directory
        self._check = check
        self._reference: Collected | None = None

    @functools.cached_property
    def _wanted(self) -> EvalSpec:
        return wanted(self._config)

    def grid_path(self, step: int) -> Path:
        """Where the sample grid of a step is."""
        return self._directory / "samples" / f"{step}.png"

    def scores_path(self, step: int) -> Path:
        """Where the scores of a step are, over the config's features."""
        return scores_path(self._directory, step, self._wanted)

    def scores(self, step: int) -> dict[str, Any]:
        """The scores of a step that are there; the same on all processes."""
        text = "{}"
        if runtime.is_primary():
            text = json.dumps(read_json(self.scores_path(step)))
        return json.loads(runtime.allgather_text("scores", text)[0])

    def sample(self, parameters: Flat, step: int, writer: MetricWriter) -> None:
        """Writes samples/STEP.png: conditions beside their variations."""
        section = self._config.sample
        crops = held_out(self._config, self._source, section.conditions)
        images, views = map(np.concatenate, zip(*crops, strict=True))
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
        grid = image_grid.condition_grid(
            images,
            generated.reshape(
                len(images), section.variations, *generated.shape[1:]
            ),
        )
        if not runtime.is_primary():
            return
        path = self.grid_path(step)
        path.parent.mkdir(exist_ok=True)
        image_grid.save_png(path, grid)
        writer.image(step, "samples", grid)

    def evaluate(
        self, parameters: Flat, step: int, writer: MetricWriter
    ) -> dict[str, Any]:
        """Writes evaluations/STEP-FEATURES.json, .png, and logs the metrics."""
        began = time.monotonic()
        config, wanted, source = self._config, self._wanted, self._source
        section, generator = config.evaluate, self._generator
        if wanted.truncate:
            generator = Generator(self._task, generator.mesh, truncate=True)
        progress = Progress(
            section.num_samples,
            description="evaluating",
            write=runtime.is_primary(),
        )

        def done(count: int) -> None:
            self._check()
            progress.update(count)

        result, picture = evaluate(
            of_images(config, generator, parameters, source, Samples(), done),
            wanted,
            self._other_side,
            embedder(generator, parameters, section.batch_size),
            mesh=generator.mesh,
            batch_size=section.batch_size,
        )
        progress.close()
        result = described(config, step, result) | {
            "seconds": round(time.monotonic() - began, 1)
        }
        if runtime.is_primary():
            write_scores(self.scores_path(step), result, picture)
        writer.scalars(
            step, {f"eval/{k}": v for k, v in result["metrics"].items()}
        )
        return result

    def _other_side(self) -> Collected:
        """What samples are compared with, collected once a run."""
        if self._reference is None:
            self._reference = reference_side(
                self._config,
                self._source,
                self._wanted,
                self._generator.mesh,
            )
        return self._reference
