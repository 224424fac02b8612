"""Batches by step, and prefetched in threads or processes from any step on."""

from __future__ import annotations

from collections.abc import Generator

import grain
import numpy as np
from absl import flags

from i2i_prior.data.broken import Batch


class Batches:
    """The batches of a run, element `step` of a Grain dataset.

    Args:
        dataset: of batches; pure, and picklable where `workers` is not 0.
        threads: in each process.
        workers: processes that make batches; 0 for this one.
        prefetch: batches made ahead.
    """

    def __init__(
        self,
        dataset: grain.MapDataset,
        threads: int = 4,
        workers: int = 0,
        prefetch: int = 8,
    ) -> None:
        self._dataset = dataset
        self._threads, self._workers = threads, workers
        self._prefetch = prefetch

    def batch(self, step: int) -> Batch:
        """The batch of `step` (from 0), or its rows for this host.

        Raises:
            UserError: no readable record was found for an example.
        """
        if step < 0:
            raise IndexError(f"step {step} is negative")
        return self._dataset[step]

    def batches_from(self, step: int) -> Generator[Batch]:
        """Endless `batch(step)`, `batch(step + 1)`, ..., made ahead.

        Starts at once at any step. Closing the iterator (`.close()`, or
        letting go of it) ends its threads and worker processes. Never more
        than `prefetch` batches wait (with workers, and one more in each).
        """
        ahead = -(-self._prefetch // max(1, self._workers))
        stream = self._dataset[step:].to_iter_dataset(
            grain.ReadOptions(
                # Grain warns of more threads than places to fill.
                num_threads=min(self._threads, ahead),
                prefetch_buffer_size=ahead,
            )
        )
        if self._workers:
            # Grain's workers read absl flags, which only absl programs parse.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            stream = stream.mp_prefetch(
                grain.MultiprocessingOptions(
                    num_workers=self._workers, per_worker_buffer_size=1
                )
            )
        iterator = iter(stream)
        try:
            for batch in iterator:
                # Workers hand over views of shared memory: own the arrays.
                yield (
                    {name: np.array(array) for name, array in batch.items()}
                    if self._workers
                    else batch
                )
        finally:
            iterator.close()
