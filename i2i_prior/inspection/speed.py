"""Throughput of reading and decoding a source on this machine."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from i2i_prior.data.decode_image import BrokenImage, decode
from i2i_prior.data.record import Record, Source

_MOST_BYTES = 256 << 20  # of records held in memory
_SECONDS = 2.0  # of decoding, at most about so long in each measurement


@dataclass(frozen=True)
class Speed:
    """One measurement.

    Attributes:
        what: such as "decode, 1 thread".
        images: number of images.
        bytes: of the stored images.
        seconds: wall time.
    """

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
    possible; files that were just read are in the page cache.

    Args:
        numbers: of the records; as many are used as fit into 256 MiB, and
            decoded for about two seconds a measurement.

    Returns:
        Three measurements; none if nothing can be read.
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
