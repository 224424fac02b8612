"""Broken images: described, counted, and refused beyond a share."""

import json
from collections.abc import Callable, Sequence

import numpy as np

from i2i_prior.data.decode_image import BrokenImage, Picture
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
    """Record `index`, of which no pixel is decoded yet; BrokenImage if it
    cannot be read, is no image, or is too large."""
    return Picture(read_record(source, index))


def describe(source: Source, index: int) -> str:
    """Name of a broken record and what is wrong with it."""
    name = f"image {index}"
    try:
        record = read_record(source, index)
        name = record.name
        Picture(record).pixels()
    except BrokenImage as broken:
        return f"{name} ({broken.reason})"
    # Its first image was read just now.
    return (
        f"{name} (is smaller than data.min_side, lacks an image of its pair or "
        "a class label, or could not be read)"
    )


class BrokenLimit:
    """Limit on the broken records of a source that is read once.

    They count against the whole source, for damage comes in runs: a shard
    with an incomplete download may well be the first.

    `share` is the greatest share of broken records, in [0, 1], of the `total`
    of the source; `advice` ends the message, after a colon. `records` have been
    counted so far, `broken` of them were broken.
    """

    def __init__(self, share: float, total: int, advice: str) -> None:
        self._share, self._total, self._advice = share, total, advice
        self.records = self.broken = 0
        self._first: list[str] = []

    def count(self, records: int, broken: Sequence[str]) -> None:
        """Counts records; `broken` holds "name (reason)" of broken ones."""
        self.records += records
        self.broken += len(broken)
        self._first += broken[: _NAMED - len(self._first)]

    def check(self) -> None:
        """Raises UserError if too many of all records are broken."""
        if self.broken <= self._share * self._total:
            return
        whole = f" of {self._total:,} in all" * (self.records < self._total)
        raise UserError(
            f"{self.broken:,} of {self.records:,} records are broken, more "
            f"than the share of {self._share:g} allowed{whole}, the first "
            f"being {', '.join(self._first)}: {self._advice}"
        )


class BrokenTally:
    """Counter of broken images in the batches of all hosts.

    It starts at 0 after a restart. The counts of other hosts are those of the
    last call of `share`.

    Args:
        source: the images.
        places: rows of a host's batch that are counted on this host and on no
            other; None for all.
        gather: (name, text) -> the texts of all hosts; a collective call.
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
        """Number of examples."""
        return int((self._here + self._elsewhere)[0])

    @property
    def broken(self) -> int:
        """Number of examples with a replaced image."""
        return int((self._here + self._elsewhere)[1])

    def add(self, batch: Batch) -> None:
        """Counts one batch of `Pipeline`."""
        counted = batch["broken"][self._places]
        broken = counted[counted >= 0]
        self._here += len(counted), len(broken)
        self._indices |= dict.fromkeys(broken.tolist())

    def share(self) -> None:
        """Sums the counts of all hosts; a collective call."""
        texts = self._gather("counting images", json.dumps(self._here.tolist()))
        counts = np.array([json.loads(text) for text in texts])
        self._elsewhere = counts.sum(0) - self._here

    @property
    def indices(self) -> list[int]:
        """Distinct broken records of this host, in order of appearance."""
        return list(self._indices)

    def names(self, most: int | None = None) -> list[str]:
        """Broken records of all hosts as "name (reason)"; a collective call.

        Reads at most `most` of them again on each host.
        """
        here = [describe(self._source, i) for i in self.indices[:most]]
        texts = self._gather("naming broken images", json.dumps(here))
        found = [name for text in texts for name in json.loads(text)]
        return list(dict.fromkeys(found))

    def check(self, max_share: float) -> None:
        """Raises UserError if too many of the examples are broken.

        A collective call with the same outcome on all hosts. `max_share` is the
        greatest share of broken examples, in [0, 1], checked from 100 examples
        on.
        """
        self.share()
        if self.seen < _MIN_SEEN or self.broken <= max_share * self.seen:
            return
        examples = ", ".join(self.names(_NAMED)[:_NAMED])
        raise UserError(
            f"{self.broken} of {self.seen} images are broken, more than the "
            f"share of {max_share:g} allowed, the first being {examples}: "
            "repair the image source or raise data option max_broken."
        )
