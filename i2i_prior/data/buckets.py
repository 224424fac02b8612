"""Batches of one shape each, for images of many aspect ratios.

Every image goes to the size of a table whose ratio is nearest to its own; a
batch holds images of one size, so that a few programs serve all of them. Size
and images of step k are a pure function of (sizes, seed, k).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from i2i_prior.data import index_cache
from i2i_prior.data.aspect_ratios import Table
from i2i_prior.data.decode_image import BrokenImage, Picture
from i2i_prior.data.order import Shuffled, spawned
from i2i_prior.data.record import Source
from i2i_prior.errors import UserError
from i2i_prior.io.threads import map_in_order

_AHEAD = 4096  # records whose headers are read in advance


class Buckets:
    """The records of each batch: `buckets[n]` is the record of example n.

    An epoch is as many whole batches of each size as its images fill; the
    rest of a size, below a batch, waits for another epoch's shuffle. Needs 4
    bytes a record.

    `sizes`, int (N, 2), are height and width of every image in pixels, `table`
    is one of `aspect_ratios`; `batch_size` is global, `seed` that of the
    shuffles. `shapes` has (height, width) in pixels of each bucket that has a
    batch. UserError if no size has images for a whole batch.
    """

    def __init__(
        self, sizes: np.ndarray, table: Table, batch_size: int, seed: int
    ) -> None:
        ratios = np.array(list(table))
        chosen = assign(sizes, ratios)
        members = [
            np.flatnonzero(chosen == k).astype(np.int32)
            for k in range(len(ratios))
        ]
        kept = [k for k, m in enumerate(members) if len(m) >= batch_size]
        if not kept:
            raise UserError(
                f"No aspect ratio has {batch_size} images of {len(sizes)}: "
                "use a smaller data.batch_size, or data.aspect_buckets=false."
            )
        self.shapes = [table[float(ratios[k])] for k in kept]
        self._ratios = dict(zip(self.shapes, ratios[kept], strict=True))
        self._members = [members[k] for k in kept]
        self._batch_size, self._seed = batch_size, seed
        self._orders = [
            Shuffled(len(its), own)
            for its, own in zip(
                self._members, spawned(seed, len(kept)), strict=True
            )
        ]
        batches = [len(its) // batch_size for its in self._members]
        self._starts = np.cumsum([0, *batches])

    def __getitem__(self, number: int) -> int:
        step, row = divmod(number, self._batch_size)
        bucket, start = self._place(step)
        return int(self._members[bucket][self._orders[bucket][start + row]])

    @property
    def batches(self) -> int:
        """Batches an epoch."""
        return int(self._starts[-1])

    def ratio(self, shape: Any) -> float:
        """height / width of a bucket, as the table has it."""
        return float(self._ratios[shape])

    def shape(self, step: int) -> tuple[int, int]:
        """(height, width) in pixels of a step's images."""
        return self.shapes[self._place(step)[0]]

    def _place(self, step: int) -> tuple[int, int]:
        """Bucket of a step, and the first of its examples in the bucket."""
        epoch, place = divmod(step, self.batches)
        slot = int(_slots(self.batches, self._seed, epoch)[place])
        bucket = int(np.searchsorted(self._starts, slot, side="right")) - 1
        start = epoch * len(self._members[bucket])
        start += (slot - int(self._starts[bucket])) * self._batch_size
        return bucket, start


def image_sizes(
    source: Source, advance: Callable[[int], None] = lambda done: None
) -> np.ndarray:
    """Sizes in pixels of the upright images, cached on disk.

    Each host reads all records, and decodes no pixel. The sizes are kept only
    if every record could be read. `advance` is called with the number of
    records done.

    Returns int32 (N, 2), height and width; (1, 1) for an image without a
    readable header, which training will replace.
    """
    place = f"sizes:{source.fingerprint()}"
    kept = index_cache.load("sizes", place, str(len(source)))
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
        index_cache.save("sizes", place, str(len(source)), {"sizes": sizes})
    return sizes


def assign(sizes: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """The nearest of ascending ratios for each (height, width), uint8 (N,).

    As in `aspect_ratios.nearest`, the lower of two that are equally near.
    """
    wanted = sizes[:, 0] / np.maximum(sizes[:, 1], 1)
    upper = np.clip(np.searchsorted(ratios, wanted), 1, len(ratios) - 1)
    below, above = ratios[upper - 1], ratios[upper]
    nearer = np.abs(wanted - below) <= np.abs(above - wanted)
    return np.where(nearer, upper - 1, upper).astype(np.uint8)


@lru_cache(maxsize=4)
def _slots(batches: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch, 5)).permutation(batches)
