"""Images that cannot be read: told, counted, and too many refused."""

from __future__ import annotations

import numpy as np

from i2i_prior.data.images import BrokenImage, decode
from i2i_prior.data.sources import Source
from i2i_prior.errors import UserError

Batch = dict[str, np.ndarray]

_MIN_SEEN = 100  # examples before a share of broken ones means anything
_NAMED = 3  # files named in an error


def read(source: Source, index: int) -> np.ndarray:
    """Decoded record `index`, (H, W, 3) uint8.

    Raises:
        BrokenImage: it cannot be read or decoded.
    """
    try:
        record = source[index]
    except OSError as error:
        raise BrokenImage(f"cannot be read ({error.strerror})") from error
    return decode(record)


def describe(source: Source, index: int) -> str:
    """Name of a broken record and what is wrong with it."""
    try:
        name = source[index].name
    except OSError:
        name = f"image {index}"
    try:
        read(source, index)
    except BrokenImage as broken:
        return f"{name} ({broken.reason})"
    return f"{name} (is smaller than the crop)"


class BrokenTally:
    """Counts the broken images of the batches that a host has seen.

    Each host counts its own examples, and counts anew after a restart.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._indices: dict[int, None] = {}  # a set that keeps its order
        self.seen = 0  # examples
        self.broken = 0  # examples whose image had to be replaced

    def add(self, batch: Batch) -> None:
        """Counts one batch of `Pipeline`."""
        broken = batch["broken"][batch["broken"] >= 0]
        self.seen += len(batch["broken"])
        self.broken += len(broken)
        self._indices |= dict.fromkeys(broken.tolist())

    @property
    def indices(self) -> list[int]:
        """Distinct broken records in the order they were met."""
        return list(self._indices)

    @property
    def names(self) -> list[str]:
        """`indices` as "name (reason)"; reads those records again."""
        return [describe(self._source, index) for index in self._indices]

    def check(self, max_share: float) -> None:
        """Raises UserError once too many of the examples were broken.

        Args:
            max_share: greatest share of broken examples, in [0, 1]; judged
                from 100 examples on.
        """
        if self.seen < _MIN_SEEN or self.broken <= max_share * self.seen:
            return
        first = self.indices[:_NAMED]
        examples = ", ".join(describe(self._source, i) for i in first)
        raise UserError(
            f"{self.broken} of {self.seen} images are broken, more than the "
            f"share of {max_share:g} allowed, the first being {examples}: "
            "mend the image source or raise data option max_broken."
        )
