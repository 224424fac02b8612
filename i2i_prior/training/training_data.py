"""Training batches of a run, from its source to the devices."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from i2i_prior.checkpoint import run_dir
from i2i_prior.data.broken import Batch, BrokenTally
from i2i_prior.data.cached import CachedPipeline, CachedSource
from i2i_prior.data.pipeline import Pipeline
from i2i_prior.data.record import Source
from i2i_prior.distributed import runtime
from i2i_prior.parallel import mesh as meshes
from i2i_prior.parallel.global_arrays import Rows, local_rows
from i2i_prior.training.input_pipeline import make_pipeline, open_training
from i2i_prior.training.resilience.rollback import Rollbacks
from i2i_prior.training.setup import to_device


@dataclass
class TrainingData:
    """Source of a run and its batches.

    Attributes:
      rows: rows of the global batch that this process makes.
      tally: unreadable images so far.
      sharding: of a batch.
    """

    source: Source | CachedSource
    pipeline: Pipeline | CachedPipeline
    rows: Rows
    tally: BrokenTally
    sharding: NamedSharding

    def batches(
        self, rollbacks: Rollbacks, step: int, depth: int
    ) -> Generator[tuple[Batch, Any]]:
        """Endless (host batch, device batch) of the updates after `step`, less
        those that `rollbacks` skip; `depth` as in `prefetch`."""
        put = functools.partial(
            to_device, sharding=self.sharding, rows=self.rows
        )
        return prefetch(rollbacks.batches(self.pipeline, step), put, depth)


def open_data(config: ConfigDict, workdir: Path, mesh: Mesh) -> TrainingData:
    """Opens the source, and makes a batch to see that it can be read.

    Raises:
      UserError: if it cannot be opened, or is not what the run in the workdir
        has learnt from.
    """
    source = open_training(config)
    run_dir.check_data(workdir, source.fingerprint())
    for note in getattr(source, "notes", ()):
        runtime.print_once(f"note: {note}")
    sharding = meshes.batch_sharding(mesh)
    rows = local_rows(sharding, config.data.batch_size)
    pipeline = make_pipeline(config, source, rows.here)
    pipeline.batch(0)
    tally = BrokenTally(source, rows.counted, runtime.allgather_text)
    return TrainingData(source, pipeline, rows, tally, sharding)


def prefetch(
    batches: Iterator[Batch], put: Callable[[Batch], Any], depth: int
) -> Generator[tuple[Batch, Any]]:
    """Yields (host batch, device batch) in order, `depth` put ahead.

    The next one is fetched and put only when the consumer asks again, that
    is, after it has dispatched its step: transfers overlap with the step
    without a thread (as `flax.jax_utils.prefetch_to_device`). The pipeline's
    own threads keep host batches ready.

    Args:
      batches: of this host; closed with this generator.
      put: starts the transfer of a batch.
      depth: batches on the devices besides the one in use, at least 1.
    """
    ready: deque[tuple[Batch, Any]] = deque()
    try:
        for batch in batches:
            ready.append((batch, put(batch)))
            if len(ready) > depth:
                yield ready.popleft()
        yield from ready
    finally:
        if isinstance(batches, Generator):
            batches.close()
