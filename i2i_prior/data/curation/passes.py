"""Curation of a source: passes over its records that give a selection.

The first pass decodes each record in threads, applies the filters in order,
and hashes it; the second compares the remaining ones. A record that cannot be
decoded is dropped as "broken". The result is a function of source and options
alone.

Memory: 17 bytes a record while the images are read. Near duplicates by hash
take 48 more, and 290 in all while they are compared: 55 GB for 190 million
records, a few hours on one core at 6 bits (a million: 14 seconds, measured).
"""

import collections
import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from i2i_prior.data.broken import BrokenLimit, read_record
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
    PHASH,
    THUMBNAIL,
    CurateOptions,
    Filter,
    FilterInput,
    filters_of,
    load_plugin,
)
from i2i_prior.data.decode_image import BrokenImage, Picture
from i2i_prior.data.record import Source
from i2i_prior.data.sources.selected import (
    refuse_mixture,
    refuse_source,
    write_selection,
)
from i2i_prior.errors import UserError
from i2i_prior.io.disk import check_output, write_errors
from i2i_prior.io.threads import map_in_order

BROKEN, DUPLICATE = "broken", "near_duplicate"
_AHEAD = 1024  # records examined in advance


class _Results:
    """Results of the first pass for all records, as arrays."""

    def __init__(self, n: int) -> None:
        self.kept = np.ones(n, bool)
        # 0 for none, since the bit of the mean is always set in a hash.
        self.phash = np.zeros(n, np.uint64)
        self.pixels, self.bytes = np.zeros((2, n), np.uint32)
        # Zeros take memory only once they are written to.
        self.colours = np.zeros((n, 48), np.uint8)

    def rank(self, records: np.ndarray) -> np.ndarray:
        """Ranks: the most pixels first, then the most bytes, then by number."""
        keys = np.stack([self.bytes[records], self.pixels[records]])
        order = np.lexsort(-keys.astype(np.int64))
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
    """Applies the filters to all records and writes the selection.

    `source` was opened from `spec`. The selection `out`, FILE.jsonl, is written
    atomically. `advance` is called with the number of records done. Returns the
    number of dropped records for each reason.

    UserError if an option, an embedding file or a user's function is bad,
    `spec` is a mixture or reads `out`, `out` cannot be written, too many
    records are broken, or none is kept.
    """
    target = Path(out).expanduser()
    refuse_mixture(spec)
    check_output(target)
    refuse_source(spec, out)
    plugins = [load_plugin(text) for text in options.filters]
    kind, embeddings = options.near_duplicates, None
    if kind not in ("", PHASH):
        embeddings = open_embeddings(kind, len(source))
    threshold = options.near_threshold()
    results = _Results(len(source))
    counts: collections.Counter[str] = collections.Counter()
    # A disk that is gone fails for every record: without a limit it would
    # look like a source of broken images.
    limit = BrokenLimit(
        options.max_broken,
        len(source),
        "repair the source, or raise --max-broken",
    )
    filters, hashed = filters_of(options, plugins), kind == PHASH
    examined = map_in_order(
        partial(_examine, source, filters, results, hashed),
        range(len(source)),
        ahead=_AHEAD,
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(write_errors(f"selection {out}"))
        target.parent.mkdir(parents=True, exist_ok=True)
        # Nameless, and in the folder of `out`, which it proves writable.
        spool = stack.enter_context(
            tempfile.TemporaryFile("w+", encoding="utf-8", dir=target.parent)
        )
        stack.enter_context(contextlib.closing(examined))  # ends its threads
        for record, (name, reason, detail) in enumerate(examined):
            if reason:
                results.kept[record] = False
                counts[reason] += 1
                line = {
                    "record": record,
                    "reason": reason,
                    "detail": detail,
                    "name": name,
                }
                spool.write(json.dumps(line) + "\n")
            broken = [f"{name} ({detail})"] if reason == BROKEN else []
            limit.count(1, broken)
            limit.check()
            advance(record + 1)
        if not results.kept.any():
            why = ", ".join(f"{reason} {n:,}" for reason, n in counts.items())
            raise UserError(
                f"no record of {spec} would be kept (dropped: {why}): loosen "
                "the filters"
            )
        instead = _near(results, embeddings, kind, threshold)
        counts.update({DUPLICATE: len(instead)} if len(instead) else {})
        results.kept[instead[:, 0]] = False
        for record, kept in instead.tolist():
            line = {"record": record, "reason": DUPLICATE, "instead": kept}
            spool.write(json.dumps(line) + "\n")
        spool.seek(0)
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
        write_selection(out, header, results.kept, spool)
    return dict(counts)


def _examine(
    source: Source,
    filters: dict[str, Filter],
    results: _Results,
    hashed: bool,
    record: int,
) -> tuple[str, str, str]:
    """Decodes one record, applies the filters, and hashes it if `hashed`;
    returns its name, the reason to drop it, or "", and details."""
    name = f"record {record}"
    try:
        found = read_record(source, record)
        name, picture = found.name, Picture(found)
        height, width = picture.height, picture.width
        # So small that a JPEG may be decoded at an eighth.
        (thumbnail,) = picture.cut([((0, 0, width, height), THUMBNAIL)])
        image = FilterInput(found, height, width, thumbnail, picture.pixels)
        for reason, judge in filters.items():
            if (why_not := judge(image)) is not None:
                return name, reason, why_not
    except BrokenImage as error:
        return name, BROKEN, error.reason
    results.pixels[record] = height * width
    results.bytes[record] = min(found.stored_bytes, 2**32 - 1)
    if hashed and (phash := perceptual_hash(thumbnail)):
        results.phash[record] = phash
        results.colours[record] = mean_colours(thumbnail)
    return name, "", ""


def _near(
    results: _Results,
    embeddings: np.ndarray | None,
    kind: str,
    threshold: float,
) -> np.ndarray:
    """(p, 2): near duplicates, and the kept record for each."""
    if not kind:
        return np.zeros((0, 2), np.int64)
    if embeddings is None:
        records = np.flatnonzero(results.phash)
        instead = near_by_hash(
            results.phash[records],
            results.colours[records],
            results.rank(records),
            int(threshold),
        )
    else:
        records = np.flatnonzero(results.kept)
        rank = results.rank(records)
        instead = near_by_embedding(embeddings, records, rank, threshold)
    gone = np.flatnonzero(instead >= 0)
    return np.stack([records[gone], records[instead[gone]]], axis=1)
