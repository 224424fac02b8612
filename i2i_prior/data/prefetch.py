"""Batches by step, and prefetched in threads or processes from any step on."""

from __future__ import annotations

import sys
from collections.abc import Generator

import grain
import numpy as np
from absl import flags

from i2i_prior.data.broken import Batch


class Batches:
    """The batches of a run, `batch(step)` for step 0, 1, ...

    Args:
        threads: in each process.
        workers: processes that make batches; 0 for this one, otherwise `self`
            is picklable.
        prefetch: batches made ahead.
    """

    def __init__(
        self, threads: int = 4, workers: int = 0, prefetch: int = 8
    ) -> None:
        self._threads, self._workers = threads, workers
        self._prefetch = prefetch

    def batch(self, step: int) -> Batch:
        """The batch of `step`, or its rows for this host; a pure function.

        Raises:
            IndexError: the step is negative.
            UserError: no readable record was found for an example.
        """
        raise NotImplementedError

    def batches_from(self, step: int) -> Generator[Batch]:
        """Endless `batch(step)`, `batch(step + 1)`, ..., made ahead.

        Starts at once at any step. Closing the iterator (`.close()`, or
        letting go of it) ends its threads and worker processes. Never more
        than `prefetch` batches wait (with workers, and one more in each).
        """
        ahead = -(-self._prefetch // max(1, self._workers))
        dataset = grain.MapDataset.range(step, sys.maxsize).map(self.batch)
        stream = dataset.to_iter_dataset(
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
                if self._workers:
                    batch = {name: np.array(a) for name, a in batch.items()}
                yield batch
        finally:
            iterator.close()
