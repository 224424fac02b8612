"""Batches of one size, for which a program is compiled once."""

from collections.abc import Iterator

import numpy as np


def padded_batches(count: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Splits rows 0 to `count` into batches of `size`.

    Yields indices int (size,), of which the last batch repeats its last row,
    and how many of them are not repeats.
    """
    for start in range(0, count, size):
        rows = np.minimum(np.arange(start, start + size), count - 1)
        yield rows, min(size, count - start)
