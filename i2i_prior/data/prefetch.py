"""Batches made ahead, in threads or processes; any step is the first."""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import Protocol

import grain
import numpy as np
from absl import flags

from i2i_prior.data.broken import Batch


class Batches(Protocol):
    """A batch is a function of its step."""

    def batch(self, step: int) -> Batch:
        """The batch of `step`, from 0."""
        ...


def batches_from(
    batches: Batches,
    step: int,
    *,
    threads: int,
    workers: int,
    prefetch: int,
) -> Generator[Batch]:
    """Endless `batch(step)`, `batch(step + 1)`, ..., made ahead.

    Starts at once at any step. Closing the iterator (`.close()`, or letting
    go of it) ends its threads and worker processes. Never more than
    `prefetch` batches wait (with workers, and one more in each).

    Args:
        batches: picklable where `workers` is not 0.
        step: the first.
        threads: in each process.
        workers: processes; 0 for this one.
        prefetch: batches made ahead.
    """
    ahead = -(-prefetch // max(1, workers))
    dataset = grain.MapDataset.source(_Steps(batches))[step:].to_iter_dataset(
        grain.ReadOptions(
            # grain warns of more threads than places to fill.
            num_threads=min(threads, ahead),
            prefetch_buffer_size=ahead,
        )
    )
    if workers:
        _parse_flags()
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(
                num_workers=workers, per_worker_buffer_size=1
            )
        )
    iterator = iter(dataset)
    try:
        for batch in iterator:
            # Workers hand over views of shared memory: own the arrays.
            yield (
                {name: np.array(array) for name, array in batch.items()}
                if workers
                else batch
            )
    finally:
        iterator.close()


class _Steps:
    """Batches as a random-access source for grain."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, step: int) -> Batch:
        return self._batches.batch(step)


def _parse_flags() -> None:
    """grain's workers read absl flags, which only absl programs parse."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
