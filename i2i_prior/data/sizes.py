"""Height and width of every image of a source, kept from start to start.

Records are read whole, by each host for itself, and no pixel is decoded; what
was read is kept only where every record could be.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from i2i_prior.data import index_cache
from i2i_prior.data.decode_image import (
    BrokenImage,
    Picture,
)
from i2i_prior.data.record import Source

_CHUNK = 4096  # records in flight
_KIND = "sizes"


def image_sizes(
    source: Source, advance: Callable[[int], None] = lambda done: None
) -> np.ndarray:
    """Sizes in pixels, upright; kept for the next start.

    Args:
        source: its fingerprint says whether what was kept is of it.
        advance: is told how many records are done.

    Returns:
        int32 (N, 2), height and width; (1, 1) for an image without a
        readable header, which training replaces when it meets it.
    """
    place = f"sizes:{source.fingerprint()}"
    kept = index_cache.load(_KIND, place, str(len(source)))
    if kept is not None and kept["sizes"].shape == (len(source), 2):
        return kept["sizes"]
    sizes = np.ones((len(source), 2), np.int32)

    def look(index: int) -> bool:
        try:
            picture = Picture(source[index])
        except BrokenImage:
            return True
        except OSError:
            return False  # it may be there the next time
        sizes[index] = picture.height, picture.width
        return True

    whole = True
    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        for start in range(0, len(source), _CHUNK):
            end = min(start + _CHUNK, len(source))
            whole &= all(list(pool.map(look, range(start, end))))
            advance(end)
    if whole:
        index_cache.save(_KIND, place, str(len(source)), {"sizes": sizes})
    return sizes
