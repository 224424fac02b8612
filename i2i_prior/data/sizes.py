"""Height and width of every image of a source, cached on disk.

Each host reads all records, and decodes no pixel. The sizes are kept only if
every record could be read.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from i2i_prior.data import index_cache
from i2i_prior.data.decode_image import BrokenImage, Picture
from i2i_prior.data.record import Source
from i2i_prior.io.threads import map_in_order

_AHEAD = 4096  # records read in advance
_KIND = "sizes"


def image_sizes(
    source: Source, advance: Callable[[int], None] = lambda done: None
) -> np.ndarray:
    """Sizes in pixels of the upright images.

    Args:
        source: identified in the cache by its fingerprint.
        advance: called with the number of records done.

    Returns:
        int32 (N, 2), height and width; (1, 1) for an image without a
        readable header, which training will replace.
    """
    place = f"sizes:{source.fingerprint()}"
    kept = index_cache.load(_KIND, place, str(len(source)))
    if kept is not None and kept["sizes"].shape == (len(source), 2):
        return kept["sizes"]
    sizes = np.ones((len(source), 2), np.int32)

    def read(index: int) -> bool:
        try:
            picture = Picture(source[index])
        except BrokenImage:
            return True
        except OSError:
            return False  # it may be readable the next time
        sizes[index] = picture.height, picture.width
        return True

    whole = True
    numbers = range(len(source))
    for done, known in enumerate(map_in_order(read, numbers, _AHEAD), 1):
        whole &= known
        advance(done)
    if whole:
        index_cache.save(_KIND, place, str(len(source)), {"sizes": sizes})
    return sizes
