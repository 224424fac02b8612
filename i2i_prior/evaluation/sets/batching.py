"""Images that come in batches of any size, in batches of one size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from i2i_prior.errors import UserError


def rebatch(batches: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same rows in batches of `size`; the last one may be shorter."""
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
    """The refusal of images of two sizes, (height, width) each."""
    return UserError(
        f"the images are of several sizes, as {one[1]} x {one[0]} and "
        f"{other[1]} x {other[0]}; give --size N to crop and resize all to "
        "N x N, or make them alike."
    )
