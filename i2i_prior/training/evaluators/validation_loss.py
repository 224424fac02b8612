"""The validation loss: fixed held-out images under fixed noise.

A training loss wanders with its draws by more than two model sizes differ.
Here every run of a sweep sees the same images, the same noise and the same
times, so that differences are the models' own. Raw and EMA weights are both
scored: after few steps the EMA lags, after many it leads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from i2i_prior.checkpoint.run_dir import read_json
from i2i_prior.checkpoint.train_state import (
    TrainState,
)
from i2i_prior.data.cached import CachedPipeline, CachedSource
from i2i_prior.data.sources import Source
from i2i_prior.diffusion.stratified_times import (
    stratified_times,
    stratum_shares,
)
from i2i_prior.distributed import runtime
from i2i_prior.errors import UserError
from i2i_prior.evaluation import validation_losses
from i2i_prior.evaluation.sample_chunks import held_out
from i2i_prior.evaluation.validation_losses import (
    FOLDER,
    KINDS,
    Losses,
)
from i2i_prior.io.progress import (
    Progress,
)
from i2i_prior.tasks import fixed_noise
from i2i_prior.tasks.base import Task
from i2i_prior.training.input_pipeline import embedding_name
from i2i_prior.training.telemetry.metric_writer import (
    MetricWriter,
    read_metrics,
)

Batch = dict[str, np.ndarray]


class Validation:
    """Measures the validation losses of a run's checkpoints.

    All processes of a run do so together; the first writes what comes out.

    Args:
      config, task: of the run.
      source: held-out images, or held-out latents of a cached run.
      directory: the run directory.
      check: called between batches; raises to stop there.
      mesh: of the parameters.
    """

    def __init__(
        self,
        config: ConfigDict,
        task: Task,
        source: Source | CachedSource,
        directory: Path,
        check: Callable[[], None],
        mesh: Mesh,
    ) -> None:
        section, diffusion = config.validation, config.diffusion
        self._config, self._source, self._check = config, source, check
        self._directory = directory
        self._times = stratified_times(section.times, task.path)
        self._shares = stratum_shares(
            section.times,
            task.path,
            diffusion.time,
            diffusion.time_mean,
            diffusion.time_std,
        )
        self._losses = fixed_noise.compiled(task, self._times, mesh)

    def path(self, step: int) -> Path:
        """Where the losses of a step are."""
        return validation_losses.document(self._directory, step)

    def measure(self, state: TrainState, step: int, writer: MetricWriter):
        """Writes validation/STEP.json and .npz, and logs the means."""
        weights = {
            "ema": state.ema_parameters(),
            "raw": {**state.params, **state.frozen},
        }
        progress = Progress(
            self._config.validation.examples,
            description="validating",
            write=runtime.is_primary(),
        )
        rows: dict[str, list[Any]] = {kind: [] for kind in KINDS}
        first = 0
        for batch, count in self._batches:
            self._check()
            numbers = np.arange(first, first + len(batch[next(iter(batch))]))
            for kind, parameters in weights.items():
                pair = self._losses(parameters, batch, numbers.astype(np.int32))
                rows[kind].append([np.asarray(a)[:count] for a in pair])
            first += count
            progress.update(first)
        progress.close()
        tables = {
            kind: Losses(*map(np.concatenate, zip(*found, strict=True)))
            for kind, found in rows.items()
        }
        if not runtime.is_primary():
            return
        about = {
            "source": self._config.validation.source
            or self._config.data.held_out,
            "fingerprint": self._source.fingerprint(),
            "examples": first,
        }
        found = validation_losses.write(
            self._directory, step, tables, self._times, self._shares, about
        )
        writer.scalars(step, found)

    def log_again(self, step: int, writer: MetricWriter) -> None:
        """Logs what is on disk, where a resumed run has forgotten the line."""
        if not runtime.is_primary():
            return
        lines = read_metrics(self._directory)
        key = f"{FOLDER}/ema_uniform"
        if not any(line["step"] == step and key in line for line in lines):
            writer.scalars(step, read_json(self.path(step))["losses"])

    @functools.cached_property
    def _batches(self) -> list[tuple[Batch, int]]:
        """The examples, decoded once a run: batches of one size, and how many
        rows of each count (the last one is filled up)."""
        size = min(
            self._config.validation.batch_size,
            self._config.validation.examples,
        )
        size = -(-size // jax.device_count()) * jax.device_count()
        return [
            ({name: _filled(a, size) for name, a in batch.items()}, count)
            for batch, count in self._examples(size)
        ]

    def _examples(self, size: int) -> Iterator[tuple[Batch, int]]:
        config, source = self._config, self._source
        examples = config.validation.examples
        if isinstance(source, CachedSource):
            yield from _prepared(config, source, examples, size)
            return
        for images, views in held_out(config, source, examples, size):
            batch = {"image": images, "view": views}
            if config.model.size_conditions:
                side = np.float32(config.data.image_size)
                batch["size"] = np.full((len(images), 2), side)
                batch["aspect"] = np.ones((len(images), 1), np.float32)
            yield batch, len(images)


def _prepared(
    config: ConfigDict, source: CachedSource, examples: int, size: int
) -> Iterator[tuple[Batch, int]]:
    if len(source) < examples:
        raise UserError(
            f"{config.validation.source} holds {len(source)} examples, but "
            f"validation.examples is {examples}; ask for fewer"
        )
    pipeline = CachedPipeline(
        source, embedding_name(source.manifest, config), size, threads=1
    )
    for step, start in enumerate(range(0, examples, size)):
        batch = pipeline.batch(step)
        kept = {name: batch[name] for name in ("latent", "embedding")}
        yield kept, min(size, examples - start)


def _filled(array: np.ndarray, size: int) -> np.ndarray:
    """(n, ...) -> (size, ...), the last row repeated."""
    return array[np.minimum(np.arange(size), len(array) - 1)]
