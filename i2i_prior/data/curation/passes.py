"""The passes over a source that end in a selection.

First each record by itself: decoded in threads, judged by the filters in
their order, hashed. Then all that is left against each other. A record that
cannot be decoded is dropped as "broken". The result is a function of source
and options alone.

Memory: 17 bytes a record while the images are read. Near duplicates by hash
take 48 more, and 290 in all while they are compared: 55 GB for 190 million
records, a few hours on one core at 6 bits (a million: 14 seconds, measured).
"""

from __future__ import annotations

import collections
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np

from i2i_prior.data.curation.duplicates import (
    mean_colours,
    near_by_hash,
    perceptual_hash,
)
from i2i_prior.data.curation.embeddings import (
    near_by_embedding,
    open_embeddings,
)
from i2i_prior.data.curation.filters import (
    THUMBNAIL,
    Filter,
    Look,
    Plugin,
    load_plugin,
    max_aspect,
    min_entropy,
    min_side,
    stored_bytes,
)
from i2i_prior.data.curation.limit import Limit
from i2i_prior.data.curation.options import PHASH, CurateOptions
from i2i_prior.data.decode_image import (
    BrokenImage,
    Picture,
)
from i2i_prior.data.record import Source
from i2i_prior.data.sources.selected import (
    refuse_mixture,
    refuse_source,
    write_selection,
)
from i2i_prior.errors import UserError
from i2i_prior.io.disk import (
    check_output,
    write_errors,
)

BROKEN, DUPLICATE = "broken", "near_duplicate"
_CHUNK = 1024  # records in flight


@dataclass(frozen=True)
class _Seen:
    """What is left of a record that was looked at."""

    name: str
    reason: str = ""
    detail: str = ""
    pixels: int = 0
    bytes: int = 0
    phash: int | None = None
    colours: np.ndarray | None = None


class _Columns:
    """The same of all records."""

    def __init__(self, n: int) -> None:
        self.kept = np.ones(n, bool)
        # 0 for none: the bit of the mean is set in a hash.
        self.phash = np.zeros(n, np.uint64)
        self.pixels, self.bytes = np.zeros((2, n), np.uint32)
        # Of zeros the system only makes memory once they are written to.
        self.colours = np.zeros((n, 48), np.uint8)

    def put(self, record: int, seen: _Seen) -> None:
        self.kept[record] = not seen.reason
        if seen.phash is not None and seen.colours is not None:
            self.phash[record] = seen.phash
            self.colours[record] = seen.colours
        self.pixels[record] = seen.pixels
        self.bytes[record] = min(seen.bytes, 2**32 - 1)

    def rank(self, records: np.ndarray) -> np.ndarray:
        """0 for the most pixels, then the most bytes, then the first."""
        order = np.lexsort(
            (
                -self.bytes[records].astype(np.int64),
                -self.pixels[records].astype(np.int64),
            )
        )
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        return rank


def curate(
    source: Source,
    spec: str,
    options: CurateOptions,
    out: str | os.PathLike[str],
    advance: Callable[[int], None] = lambda done: None,
) -> dict[str, int]:
    """Judges every record of a source and writes the selection.

    Args:
        source: what `spec` opened.
        spec: stands in the selection.
        options: what is dropped.
        out: the selection, FILE.jsonl; there only when it is whole.
        advance: is told how many records have been looked at.

    Returns:
        How many were dropped for each reason.

    Raises:
        UserError: an option, an embedding file or a user's function is bad,
            `spec` is a mixture or reads `out`, `out` cannot be written, too
            many records are broken, or none is kept.
    """
    refuse_mixture(spec)
    check_output(Path(out).expanduser())
    refuse_source(spec, out)
    plugins = [load_plugin(text) for text in options.filters]
    kind, embeddings = options.near_duplicates, None
    if kind not in ("", PHASH):
        embeddings = open_embeddings(kind, len(source))
    threshold = options.least_or_most()
    seen = _Columns(len(source))
    counts: collections.Counter[str] = collections.Counter()
    limit = Limit(options.max_broken, len(source))
    looks = _looks(source, _filters(options, plugins), kind == PHASH)
    with (
        write_errors(f"selection {out}"),
        _spool(out) as spool,
        closing(looks),  # which ends its threads
    ):
        for record, look in enumerate(looks):
            seen.put(record, look)
            if look.reason:
                counts[look.reason] += 1
                spool.write(_line(record, look))
            broken = look.detail if look.reason == BROKEN else ""
            limit.add(look.name, broken)
            advance(record + 1)
        if not seen.kept.any():
            why = ", ".join(f"{reason} {n:,}" for reason, n in counts.items())
            raise UserError(
                f"no record of {spec} would be kept (dropped: {why}): loosen "
                "the filters"
            )
        instead = _near(seen, embeddings, kind, threshold)
        counts.update({DUPLICATE: len(instead)} if len(instead) else {})
        seen.kept[instead[:, 0]] = False
        spool.seek(0)
        pairs = (
            json.dumps({"record": record, "reason": DUPLICATE, "instead": kept})
            for record, kept in instead.tolist()
        )
        header = {
            "source": spec,
            "fingerprint": source.fingerprint(),
            "dropped": dict(counts),
            "options": {
                **asdict(options),
                "threshold": threshold if kind else None,
                "versions": {plugin.name: plugin.version for plugin in plugins},
            },
        }
        spooled = (line.rstrip("\n") for line in spool)
        lines = itertools.chain(spooled, pairs)
        write_selection(out, header, seen.kept, lines)
    return dict(counts)


def _spool(out: str | os.PathLike[str]) -> TextIO:
    """A file without a name beside `out`: whether one can write is told now."""
    folder = Path(out).expanduser().parent
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryFile("w+", encoding="utf-8", dir=folder)


def _filters(
    options: CurateOptions, plugins: list[Plugin]
) -> dict[str, Filter]:
    """Reason class -> filter, in the order they are asked."""
    filters: dict[str, Filter] = {}
    if options.min_side:
        filters["min_side"] = min_side(options.min_side)
    if options.max_aspect:
        filters["max_aspect"] = max_aspect(options.max_aspect)
    if options.min_entropy:
        filters["min_entropy"] = min_entropy(options.min_entropy)
    for plugin in plugins:
        if plugin.name in filters:
            raise UserError(
                f"filter {plugin.name} is given twice: what it drops could not "
                "be told apart, so name file or function otherwise"
            )
        filters[plugin.name] = plugin.judge
    return filters


def _looks(
    source: Source, filters: dict[str, Filter], hashed: bool
) -> Generator[_Seen]:
    """Looks at all records in many threads; yields in their order."""
    # More threads than cores: some wait for the disk or the network.
    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        for start in range(0, len(source), _CHUNK):
            chunk = range(start, min(start + _CHUNK, len(source)))
            yield from pool.map(partial(_look, source, filters, hashed), chunk)


def _look(
    source: Source, filters: dict[str, Filter], hashed: bool, record: int
) -> _Seen:
    """Decodes one record, asks the filters, hashes it where wanted."""
    try:
        found = source[record]
    except OSError as error:
        why = f"cannot be read ({error.strerror or error})"
        return _Seen(f"record {record}", BROKEN, why)
    try:
        picture = Picture(found)
        height, width = picture.height, picture.width
        # A small one: a JPEG is decoded at an eighth where that is enough.
        (thumbnail,) = picture.cut([((0, 0, width, height), THUMBNAIL)])
        look = Look(found, height, width, thumbnail, picture.pixels)
        for reason, judge in filters.items():
            if (why_not := judge(look)) is not None:
                return _Seen(found.name, reason, why_not)
    except BrokenImage as error:
        return _Seen(found.name, BROKEN, error.reason)
    return _Seen(
        found.name,
        pixels=height * width,
        bytes=stored_bytes(found),
        phash=perceptual_hash(thumbnail) if hashed else None,
        colours=mean_colours(thumbnail) if hashed else None,
    )


def _line(record: int, seen: _Seen) -> str:
    line = {
        "record": record,
        "reason": seen.reason,
        "detail": seen.detail,
        "name": seen.name,
    }
    return json.dumps(line) + "\n"


def _near(
    seen: _Columns, embeddings: np.ndarray | None, kind: str, threshold: float
) -> np.ndarray:
    """(p, 2): the near duplicates, and what is kept in their stead."""
    if not kind:
        return np.zeros((0, 2), np.int64)
    if embeddings is None:
        records = np.flatnonzero(seen.phash)
        instead = near_by_hash(
            seen.phash[records],
            seen.colours[records],
            seen.rank(records),
            int(threshold),
        )
    else:
        records = np.flatnonzero(seen.kept)
        rank = seen.rank(records)
        instead = near_by_embedding(embeddings, records, rank, threshold)
    gone = np.flatnonzero(instead >= 0)
    return np.stack([records[gone], records[instead[gone]]], axis=1)
