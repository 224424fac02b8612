"""Streams of images in batches of one size."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from i2i_prior.errors import UserError

THREADS = min(16, os.cpu_count() or 1)


def rebatch(batches: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Batches of `size` with the same rows; the last one may be shorter.

    Args:
        batches: uint8 (n, H, W, 3) of any n.
        size: rows of a batch.

    Raises:
        UserError: other arrays, or images of several sizes.
    """
    waiting: list[np.ndarray] = []
    for batch in batches:
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[3] != 3:
            raise UserError(
                "features are computed from uint8 images (N, H, W, 3), not "
                f"from {batch.dtype} of shape {batch.shape}."
            )
        if waiting and batch.shape[1:] != waiting[0].shape[1:]:
            raise mixed_sizes(waiting[0].shape[1:3], batch.shape[1:3])
        waiting.append(batch)
        if sum(map(len, waiting)) < size:
            continue
        rows = np.concatenate(waiting)
        whole = len(rows) // size * size
        for start in range(0, whole, size):
            yield rows[start : start + size]
        # Also where it has no row, for its shape.
        waiting = [rows[whole:]]
    if sum(map(len, waiting)):
        yield np.concatenate(waiting)


def mixed_sizes(one: Sequence[int], other: Sequence[int]) -> UserError:
    """Error of images of two sizes, (height, width) each."""
    return UserError(
        f"the images are of several sizes, as {one[1]} x {one[0]} and "
        f"{other[1]} x {other[0]}; give --size N to crop and resize all to "
        "N x N, or make their sizes equal."
    )
