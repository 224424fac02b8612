"""Survey of a source: a random sample, and the speed of reading it."""

import collections
import contextlib
import io
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from PIL import Image

from i2i_prior.data.decode_image import BrokenImage, Picture, decode
from i2i_prior.data.decoding import FORMATS
from i2i_prior.data.record import Record, Source
from i2i_prior.errors import UserError
from i2i_prior.io.threads import map_in_order

_AHEAD = 256  # records read in advance
_MOST_BYTES = 256 << 20  # of records held in memory
_SECONDS = 2.0  # of decoding, at most about so long in each measurement


@dataclass(frozen=True)
class ImageHeader:
    """Header of an image; "", 0 and 0 if it is unreadable."""

    kind: str = ""  # format and mode, as "JPEG RGB"; "pixels" for an array
    width: int = 0  # in pixels, upright, as the height
    height: int = 0


@dataclass(frozen=True)
class SampledRecord:
    """One record of the sample."""

    record: int  # its number
    name: str = ""  # in the source; "" if it cannot be read
    bytes: int = 0  # of the stored image
    header: ImageHeader = ImageHeader()
    broken: str = ""  # completes "the image ..."; "" if it is readable
    captions: int = 0  # their number
    fields: tuple[str, ...] = ()  # names: captions, label, json, images


@dataclass(frozen=True)
class Survey:
    """A sample of a source."""

    spec: str
    records: int  # in the whole source
    seed: int  # of the sample
    # In the source's order; all records, if it is small.
    sample: list[SampledRecord] = field(repr=False)
    notes: tuple[str, ...] = ()  # of the source, see `TarSource`

    @property
    def whole(self) -> bool:
        """True if the sample holds all records."""
        return len(self.sample) == self.records

    def broken(self) -> dict[str, list[SampledRecord]]:
        """Reason -> records, the most frequent reason first."""
        classes: dict[str, list[SampledRecord]] = {}
        for each in self.sample:
            if each.broken:
                reason = each.broken.partition(" (")[0]
                classes.setdefault(reason, []).append(each)
        by_size = sorted(classes.items(), key=lambda item: -len(item[1]))
        return dict(by_size)

    def sizes(self) -> np.ndarray:
        """(n, 2) int64, width and height of images with a readable header."""
        sizes = [(x.header.width, x.header.height) for x in self.sample]
        found = np.array(sizes, np.int64).reshape(-1, 2)
        return found[found.min(1, initial=1) > 0]

    def kinds(self) -> dict[str, int]:
        """Format and mode -> records."""
        return _counted(each.header.kind or "unknown" for each in self.sample)

    def extensions(self) -> dict[str, int]:
        """File name extension in lower case -> records."""
        ends = (os.path.splitext(each.name)[1].lower() for each in self.sample)
        return _counted(end or "none" for end in ends)

    def fields(self) -> dict[str, int]:
        """Name of a field -> number of records with it."""
        return _counted(name for each in self.sample for name in each.fields)


def survey(
    source: Source,
    spec: str,
    sample: int = 2000,
    seed: int = 0,
    advance: Callable[[int], None] = lambda done: None,
) -> Survey:
    """Reads and decodes up to `sample` records, in threads.

    UserError unless `sample` is positive; `advance` is called with the number
    of records done.
    """
    if sample < 1:
        raise UserError(f"a sample of {sample} shows nothing: give 1 or more")
    n = len(source)
    chosen = np.arange(n)
    if sample < n:
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.choice(n, sample, replace=False))
    sampled: list[SampledRecord] = []
    numbers = chosen.tolist()
    for found in map_in_order(partial(_read, source), numbers, _AHEAD):
        sampled.append(found)
        advance(len(sampled))
    notes = tuple(getattr(source, "notes", ()))
    return Survey(spec, n, seed, sampled, notes)


def image_header(record: Record) -> ImageHeader:
    """Format and size, without decoding any pixel; never raises."""
    kind = _kind(record.data)
    try:
        picture = Picture(record)
    except BrokenImage:
        return ImageHeader(kind)
    return ImageHeader(kind, picture.width, picture.height)


def _kind(data: bytes | np.ndarray) -> str:
    if isinstance(data, np.ndarray):
        return "pixels"
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return f"{image.format} {image.mode}"
    except MemoryError:
        raise
    except Exception:  # hostile bytes make Pillow raise nearly everything
        return ""


def _read(source: Source, number: int) -> SampledRecord:
    try:
        record = source[number]
    except OSError as error:
        why = f"cannot be read ({error.strerror or error})"
        return SampledRecord(number, broken=why)
    broken = ""
    try:
        decode(record)
    except BrokenImage as error:
        broken = error.reason
    return SampledRecord(
        record=number,
        name=record.name,
        bytes=record.stored_bytes,
        header=image_header(record),
        broken=broken,
        captions=len(record.fields.get("captions", ())),
        fields=tuple(record.fields),
    )


def _counted(names: Iterable[str]) -> dict[str, int]:
    """Counts of names, the most frequent first."""
    return dict(collections.Counter(names).most_common())


@dataclass(frozen=True)
class Speed:
    """Wall time of an operation such as "decode, 1 thread"; stored bytes."""

    what: str
    images: int
    bytes: int
    seconds: float

    def __str__(self) -> str:
        images = self.images / self.seconds
        megabytes = self.bytes / self.seconds / 1e6
        return f"{images:,.0f} images/s, {megabytes:,.1f} MB/s"


def measure(source: Source, numbers: Sequence[int]) -> list[Speed]:
    """Times reading, and decoding from memory in one thread and on all cores.

    Decoding is at full size, to RGB, broken images included as far as
    possible; files that were just read are in the page cache. As many of the
    records are used as fit into 256 MiB, and decoded for about two seconds a
    measurement. Nothing is returned if nothing can be read.
    """
    records: list[Record] = []
    size = 0
    start = time.perf_counter()
    for number in numbers:
        try:
            record = source[number]
        except OSError:
            continue
        records.append(record)
        size += record.stored_bytes
        if size > _MOST_BYTES or time.perf_counter() - start > _SECONDS:
            break
    if not records:
        return []
    seconds = time.perf_counter() - start
    cores = os.cpu_count() or 1
    return [
        Speed("read, 1 thread", len(records), size, seconds),
        _decoding(records, 1),
        _decoding(records, cores),
    ]


def _decoding(records: list[Record], threads: int) -> Speed:
    """Times decoding, in rounds of 8 records a thread until time is up."""
    done, size = 0, 0
    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        while done < len(records) and time.perf_counter() - start < _SECONDS:
            part = records[done : done + 8 * threads]
            size += sum(pool.map(_decode, part))
            done += len(part)
    seconds = time.perf_counter() - start
    plural = "s" if threads > 1 else ""
    return Speed(f"decode, {threads} thread{plural}", done, size, seconds)


def _decode(record: Record) -> int:
    """Decodes a record; returns its stored bytes."""
    with contextlib.suppress(BrokenImage):
        decode(record)
    return record.stored_bytes
