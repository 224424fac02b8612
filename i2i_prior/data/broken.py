"""Images that cannot be read: told, counted, and too many refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np

from i2i_prior.data.decode_image import (
    BrokenImage,
    Picture,
)
from i2i_prior.data.record import Record, Source
from i2i_prior.errors import UserError

Batch = dict[str, np.ndarray]

_MIN_SEEN = 100  # examples before a share of broken ones means anything
_NAMED = 3  # files named in an error


def read_record(source: Source, index: int) -> Record:
    """Record `index`; raises BrokenImage where it cannot be read."""
    try:
        return source[index]
    except OSError as error:
        reason = error.strerror or error
        raise BrokenImage(f"cannot be read ({reason})") from error


def open_picture(source: Source, index: int) -> Picture:
    """Record `index`, of which no pixel is decoded yet.

    Raises:
        BrokenImage: it cannot be read, is no image, or too large.
    """
    return Picture(read_record(source, index))


def read(source: Source, index: int) -> np.ndarray:
    """Decoded record `index`, (H, W, 3) uint8.

    Raises:
        BrokenImage: it cannot be read or decoded.
    """
    return open_picture(source, index).pixels()


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
    # Its first image was read just now.
    return (
        f"{name} (is smaller than data.min_side, lacks an image of its pair or "
        "a class label, or could not be read)"
    )


class BrokenTally:
    """Counts the broken images of the batches that the hosts have seen.

    It counts anew after a restart. Of other hosts it knows what `share`
    brought last.

    Args:
        source: the images.
        places: of a host's batch, the examples that are counted here and on
            no other host; None for all.
        gather: (name, text) -> the texts of all hosts, which all ask for at
            the same place of the program.
    """

    def __init__(
        self,
        source: Source,
        places: Sequence[int] | None = None,
        gather: Callable[[str, str], list[str]] = lambda name, text: [text],
    ) -> None:
        self._source, self._gather = source, gather
        self._places = slice(None) if places is None else list(places)
        self._indices: dict[int, None] = {}  # a set that keeps its order
        self._here = np.zeros(2, int)  # examples seen, broken ones
        self._elsewhere = np.zeros(2, int)

    @property
    def seen(self) -> int:
        """Examples."""
        return int((self._here + self._elsewhere)[0])

    @property
    def broken(self) -> int:
        """Examples whose image had to be replaced."""
        return int((self._here + self._elsewhere)[1])

    def add(self, batch: Batch) -> None:
        """Counts one batch of `Pipeline`."""
        counted = batch["broken"][self._places]
        broken = counted[counted >= 0]
        self._here += len(counted), len(broken)
        self._indices |= dict.fromkeys(broken.tolist())

    def share(self) -> None:
        """Brings the counts of all hosts together; all call it."""
        texts = self._gather("counting images", json.dumps(self._here.tolist()))
        counts = np.array([json.loads(text) for text in texts])
        self._elsewhere = counts.sum(0) - self._here

    @property
    def indices(self) -> list[int]:
        """Distinct broken records of this host, in the order they were met."""
        return list(self._indices)

    def names(self, most: int | None = None) -> list[str]:
        """Broken records of all hosts as "name (reason)"; all call it.

        Reads them again, at most `most` of each host.
        """
        here = [describe(self._source, i) for i in self.indices[:most]]
        texts = self._gather("naming broken images", json.dumps(here))
        found = [name for text in texts for name in json.loads(text)]
        return list(dict.fromkeys(found))

    def check(self, max_share: float) -> None:
        """Raises UserError once too many of the examples were broken.

        All hosts call it, and decide alike.

        Args:
            max_share: greatest share of broken examples, in [0, 1]; judged
                from 100 examples on.
        """
        self.share()
        if self.seen < _MIN_SEEN or self.broken <= max_share * self.seen:
            return
        examples = ", ".join(self.names(_NAMED)[:_NAMED])
        raise UserError(
            f"{self.broken} of {self.seen} images are broken, more than the "
            f"share of {max_share:g} allowed, the first being {examples}: "
            "mend the image source or raise data option max_broken."
        )
