"""What is in a source: a random sample of its records, read and decoded."""

from __future__ import annotations

import collections
import io
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from PIL import Image

from i2i_prior.data.curation.filters import stored_bytes
from i2i_prior.data.decode_image import (
    BrokenImage,
    Picture,
    decode,
)
from i2i_prior.data.decoding import FORMATS
from i2i_prior.data.record import Record, Source
from i2i_prior.errors import UserError

_CHUNK = 256  # records in flight


@dataclass(frozen=True)
class Glance:
    """What the header of an image says; "", 0 and 0 where it does not.

    Attributes:
        kind: format and mode, as "JPEG RGB"; "pixels" for an array.
        width, height: in pixels, upright.
    """

    kind: str = ""
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Seen:
    """One record of the sample.

    Attributes:
        record: its number.
        name: in the source; "" where it could not be read.
        bytes: of the stored image.
        glance: at its first bytes.
        broken: why it cannot be used, completing "the image ..."; else "".
        captions: how many.
        fields: names of what else it has (captions, label, json, images).
    """

    record: int
    name: str = ""
    bytes: int = 0
    glance: Glance = Glance()
    broken: str = ""
    captions: int = 0
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Survey:
    """A sample of a source.

    Attributes:
        spec: of the source.
        records: in the whole source.
        seed: of the sample.
        seen: the sampled records in the source's order; all, if it is small.
        notes: of the source, see `TarSource`.
    """

    spec: str
    records: int
    seed: int
    seen: list[Seen] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether the sample is all there is."""
        return len(self.seen) == self.records

    def broken(self) -> dict[str, list[Seen]]:
        """Reason class -> records, the most frequent class first."""
        classes: dict[str, list[Seen]] = {}
        for seen in self.seen:
            if seen.broken:
                reason = seen.broken.partition(" (")[0]
                classes.setdefault(reason, []).append(seen)
        by_size = sorted(classes.items(), key=lambda item: -len(item[1]))
        return dict(by_size)

    def sizes(self) -> np.ndarray:
        """(n, 2) int64, width and height of all whose header is readable."""
        sizes = [(x.glance.width, x.glance.height) for x in self.seen]
        found = np.array(sizes, np.int64).reshape(-1, 2)
        return found[found.min(1, initial=1) > 0]

    def kinds(self) -> dict[str, int]:
        """Format and mode -> records."""
        return _counted(seen.glance.kind or "unknown" for seen in self.seen)

    def extensions(self) -> dict[str, int]:
        """File name extension in lower case -> records."""
        ends = (os.path.splitext(seen.name)[1].lower() for seen in self.seen)
        return _counted(end or "none" for end in ends)

    def fields(self) -> dict[str, int]:
        """Name of a field -> records that have it."""
        return _counted(name for seen in self.seen for name in seen.fields)


def survey(
    source: Source,
    spec: str,
    sample: int = 2000,
    seed: int = 0,
    advance: Callable[[int], None] = lambda done: None,
) -> Survey:
    """Reads and decodes up to `sample` records, in threads.

    Args:
        source: what `spec` opened.
        advance: is told how many records are done.

    Raises:
        UserError: `sample` is not positive.
    """
    if sample < 1:
        raise UserError(f"a sample of {sample} shows nothing: give 1 or more")
    n = len(source)
    chosen = np.arange(n)
    if sample < n:
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.choice(n, sample, replace=False))
    seen: list[Seen] = []
    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        for start in range(0, len(chosen), _CHUNK):
            chunk = chosen[start : start + _CHUNK].tolist()
            for found in pool.map(partial(_look, source), chunk):
                seen.append(found)
                advance(len(seen))
    notes = tuple(getattr(source, "notes", ()))
    return Survey(spec, n, seed, seen, notes)


def glance(record: Record) -> Glance:
    """Format and size, without decoding any pixel; never raises."""
    kind = _kind(record.data)
    try:
        picture = Picture(record)
    except BrokenImage:
        return Glance(kind)
    return Glance(kind, picture.width, picture.height)


def _kind(data: bytes | np.ndarray) -> str:
    if isinstance(data, np.ndarray):
        return "pixels"
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return f"{image.format} {image.mode}"
    except MemoryError:
        raise
    except Exception:  # as `decode`: hostile bytes raise nearly everything
        return ""


def _look(source: Source, number: int) -> Seen:
    try:
        record = source[number]
    except OSError as error:
        why = f"cannot be read ({error.strerror or error})"
        return Seen(number, broken=why)
    broken = ""
    try:
        decode(record)
    except BrokenImage as error:
        broken = error.reason
    return Seen(
        record=number,
        name=record.name,
        bytes=stored_bytes(record),
        glance=glance(record),
        broken=broken,
        captions=len(record.fields.get("captions", ())),
        fields=tuple(record.fields),
    )


def _counted(names: Iterable[str]) -> dict[str, int]:
    """The most frequent first."""
    return dict(collections.Counter(names).most_common())
