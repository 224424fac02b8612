"""curation.html: dropped records of a selection by reason, as thumbnails."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.data.broken import read_record
from i2i_prior.data.contact_sheet import STYLE, group, thumbnail, tile, tiles
from i2i_prior.data.curation.passes import DUPLICATE
from i2i_prior.data.decode_image import BrokenImage
from i2i_prior.data.record import Source
from i2i_prior.data.sources.selected import (
    check_source,
    read_dropped,
    read_selection,
)
from i2i_prior.report.charts import bars
from i2i_prior.report.html import cards, folded, section, write_page

_SHOWN = 40  # records a reason
_GROUPS = 40  # kept images whose near duplicates are shown
_NEAR = 6  # near duplicates shown of one kept image
_SIDE = 128  # of a thumbnail


def write_curation_report(
    selection: str, source: Source, folder: str | os.PathLike[str]
) -> Path:
    """Writes `folder`/curation.html, with a few hundred thumbnails at most.

    A fixed random sample is shown of each reason; near duplicates next to the
    kept image. Returns the path of the page. UserError if the selection is
    damaged, or of another source.
    """
    header, _ = read_selection(selection)
    check_source(selection, header, source)
    samples = _sampled(read_dropped(selection))
    counts = dict(sorted(header["dropped"].items(), key=lambda item: -item[1]))
    records, kept = header["records"], header["kept"]
    body = cards(
        {
            "records": f"{records:,}",
            "kept": f"{kept:,} ({kept / records:.1%})",
            "dropped": f"{records - kept:,}",
        }
    )
    if counts:
        plot = bars("Dropped, by reason", list(counts), list(counts.values()))
        body += section("Reasons", f'<div class="plots">{plot}</div>')
    for reason in counts:
        lines = samples.get(reason, [])
        show = _groups if reason == DUPLICATE else _tiles
        body += section(
            f"{reason}: {counts[reason]:,}",
            _more(len(lines)) + show(lines, source),
        )
    body += folded("Options", {"source": header["source"], **header["options"]})
    title = f"Curation of {header['source']}"
    path = Path(folder) / "curation.html"
    return write_page(path, title, "Dropped records by reason", body, STYLE)


def _sampled(
    dropped: Iterable[dict[str, Any]],
) -> dict[str, list[dict[str, Any]]]:
    """Uniform samples of up to `_SHOWN` lines of each reason."""
    rng = np.random.default_rng(0)
    seen: Counter[str] = Counter()
    samples: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in dropped:
        reason = line["reason"]
        sample = samples[reason]
        seen[reason] += 1
        if len(sample) < _SHOWN:
            sample.append(line)
        elif (place := int(rng.integers(seen[reason]))) < _SHOWN:
            sample[place] = line
    for sample in samples.values():
        sample.sort(key=lambda line: line["record"])
    return samples


def _tiles(lines: list[dict[str, Any]], source: Source) -> str:
    return tiles(_tile(source, i["record"], i["detail"]) for i in lines)


def _groups(lines: list[dict[str, Any]], source: Source) -> str:
    """Kept images, each with its dropped near duplicates on its right."""
    near: dict[int, list[int]] = defaultdict(list)
    for line in lines:
        near[line["instead"]].append(line["record"])
    parts = []
    for kept, records in sorted(near.items())[:_GROUPS]:
        figures = [_tile(source, kept, "kept")]
        figures += [_tile(source, i, "dropped") for i in records[:_NEAR]]
        parts.append(group(figures))
    return "".join(parts)


def _more(shown: int) -> str:
    text = f'<p class="soft">A random sample of {shown}.</p>'
    return text if shown == _SHOWN else ""


def _tile(source: Source, record: int, note: str) -> str:
    """Thumbnail, number, name and size of a record; text alone if broken."""
    title = f"record {record}"
    try:
        found = read_record(source, record)
        title = f"{record}: {found.name}"
        picture, small = thumbnail(found, _SIDE)
    except BrokenImage:
        return tile(None, [title, note])
    size = f"{picture.width} x {picture.height}, {found.stored_bytes:,} bytes"
    return tile(small, [title, size, note])
