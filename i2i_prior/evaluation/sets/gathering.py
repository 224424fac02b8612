"""What the processes of a run have, brought together to the last bit.

All processes call these functions at the same place of the program.
"""

from __future__ import annotations

import numpy as np
from jax.experimental import multihost_utils

from i2i_prior.evaluation.measures.statistics import FeatureStatistics


def joined_block(block: FeatureStatistics) -> FeatureStatistics:
    """The statistics of all processes in one, joined in process order."""
    joined = FeatureStatistics(block.dim, block.features)
    mean = block.mean if block.count else np.zeros(block.dim)
    counts = gathered(np.array([block.count], np.uint32))[:, 0]
    means, moments = gathered(mean), gathered(block.moment)
    for count, one, moment in zip(counts, means, moments, strict=True):
        if count:
            joined.merge(FeatureStatistics.of(int(count), one, moment))
    return joined


def interleaved(rows: np.ndarray, counts: list[int]) -> np.ndarray:
    """Rows 0, 1, ... of the whole; process p has p, p + processes, ...

    Args:
        rows: (n, ...) of this process.
        counts: n of each process.
    """
    filled = np.zeros((max(counts), *rows.shape[1:]), rows.dtype)
    filled[: len(rows)] = rows
    every = np.moveaxis(gathered(filled), 0, 1)
    return every.reshape(-1, *rows.shape[1:])[: sum(counts)]


def gathered(array: np.ndarray) -> np.ndarray:
    """The arrays of all processes, (processes, *array.shape).

    As words of 32 bits: JAX would make float32 of float64 on the way.

    Args:
        array: of the same shape and dtype on all, of whole such words.
    """
    whole = np.ascontiguousarray(array)
    words = np.frombuffer(whole.tobytes(), np.uint32)
    found = np.asarray(multihost_utils.process_allgather(words))
    return found.view(array.dtype).reshape(-1, *array.shape)
