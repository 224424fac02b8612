"""Reports of a survey: text, and inspect.html."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from i2i_prior.data.contact_sheet import STYLE, thumbnail, tile, tiles
from i2i_prior.data.decode_image import BrokenImage
from i2i_prior.data.record import Source
from i2i_prior.inspection.survey import SampledRecord, Speed, Survey
from i2i_prior.report import html
from i2i_prior.report.charts import bars
from i2i_prior.report.html import escape, section

_NAMED = 20  # broken records of each class in the text
_SHOWN = 60  # pictures on the contact sheet
_SIDE = 128  # of a picture
_BAR = 40  # characters of the longest bar

# Edges of the histograms' bars; the outer two are open.
_SIDES = (64, 128, 256, 512, 1024, 2048, 4096)
_RATIOS = (0.33, 0.5, 0.66, 0.8, 0.95, 1.05, 1.25, 1.5, 2, 3)
_MEGAPIXELS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)


def as_text(survey: Survey, speeds: Sequence[Speed]) -> str:
    """Counts, histograms, broken records and speed as text."""
    lines = [f"{name:<19}{value}" for name, value in _facts(survey, speeds)]
    for title, edges, counts in _histograms(survey):
        lines += ["", title]
        for pair, count in zip(itertools.pairwise(edges), counts, strict=True):
            bar = "#" * round(count / max(counts) * _BAR)
            lines.append(f"  {_range(*pair):>12} {count:>9,} {bar}")
    for reason, sample in survey.broken().items():
        lines += ["", f"{len(sample):,} broken: {reason}"]
        lines += [f"  {_named(found)}" for found in sample[:_NAMED]]
        if len(sample) > _NAMED:
            lines.append(f"  and {len(sample) - _NAMED:,} more")
    # File names may hold bytes that are no text.
    return "\n".join(lines).encode("utf-8", "replace").decode()


def write_page(
    survey: Survey, speeds: Sequence[Speed], source: Source, folder: Path
) -> Path:
    """Writes `folder`/inspect.html, with plots and pictures."""
    body = "<p></p>" + html.table((), _facts(survey, speeds))
    plots = "".join(
        bars(title, ["" if e is None else f"{e:g}" for e in edges], counts)
        for title, edges, counts in _histograms(survey)
    )
    if plots:
        body += section("Sizes", f'<div class="plots">{plots}</div>')
    for reason, sample in survey.broken().items():
        names = "<br>".join(escape(_named(found)) for found in sample)
        body += section(
            f"{len(sample):,} broken: {reason}",
            f'<div class="wide">{names}</div>',
        )
    body += section("Pictures", tiles(_pictures(survey, source)))
    below = (
        f"All {survey.records:,} records"
        if survey.whole
        else f"A random sample of {len(survey.sample):,} of {survey.records:,} "
        f"records (seed {survey.seed})"
    )
    path = folder / "inspect.html"
    return html.write_page(path, survey.spec, below, body, STYLE)


def _facts(
    survey: Survey, speeds: Sequence[Speed]
) -> Iterator[tuple[str, str]]:
    """Yields names and values, the most important first."""
    n, sample = survey.records, survey.sample
    yield "records", f"{n:,}"
    if not survey.whole:
        yield (
            "looked at",
            f"{len(sample):,}, a random sample (seed {survey.seed}); "
            "what follows is of these",
        )
    for note in survey.notes:
        yield "note", note
    broken = sum(bool(found.broken) for found in sample)
    yield "broken", f"{broken:,} ({broken / len(sample):.2%})"
    size = sum(found.bytes for found in sample)
    about = "" if survey.whole else "about "
    whole = size / len(sample) * n
    yield "bytes", f"{about}{_bytes(whole)}, {_bytes(size / len(sample))} each"
    yield "formats", _list(survey.kinds())
    yield "extensions", _list(survey.extensions())
    fields = survey.fields()
    yield "beside images", _list(fields) if fields else "nothing"
    if (captions := fields.get("captions", 0)) > 0:
        each = sum(found.captions for found in sample) / captions
        yield "captions", f"{each:.1f} a captioned record"
    sizes = survey.sizes()
    if len(sizes):
        for name, values, form in (
            ("shorter side", sizes.min(1), "{:,.0f}"),
            ("longer side", sizes.max(1), "{:,.0f}"),
            ("width/height", sizes[:, 0] / sizes[:, 1], "{:.2f}"),
            ("megapixels", sizes.prod(1) / 1e6, "{:.3g}"),
        ):
            low, *middle, high = np.percentile(values, [0, 5, 50, 95, 100])
            five, half, ninety = map(form.format, middle)
            yield (
                name,
                f"median {half}, 90 % in {five} to {ninety}, all in "
                f"{form.format(low)} to {form.format(high)}",
            )
    for speed in speeds:
        yield speed.what, f"{speed} (of {speed.images:,} images)"


def _range(low: float | None, high: float | None) -> str:
    if low is None:
        return f"< {high:g}"
    return f">= {low:g}" if high is None else f"{low:g} to {high:g}"


# Title, edges of the bars (None is open), and counts between them.
_Histogram = tuple[str, list[float | None], list[int]]


def _histograms(survey: Survey) -> Iterator[_Histogram]:
    sizes = survey.sizes()
    if not len(sizes):
        return
    ratios = sizes[:, 0] / sizes[:, 1]
    areas = sizes.prod(1) / 1e6
    yield _histogram("Shorter side in pixels", sizes.min(1), _SIDES)
    yield _histogram("Width / height", ratios, _RATIOS)
    yield _histogram("Megapixels", areas, _MEGAPIXELS)


def _histogram(
    title: str, values: np.ndarray, edges: Sequence[float]
) -> _Histogram:
    """Counts in [low, high) without empty bars at the ends."""
    places = np.digitize(values, edges)
    first, last = int(places.min()), int(places.max())
    counts = np.bincount(places - first).tolist()
    return title, [None, *edges, None][first : last + 2], counts


def _pictures(survey: Survey, source: Source) -> Iterator[str]:
    """Yields tiles of readable records, spread evenly over the sample."""
    readable = [found for found in survey.sample if not found.broken]
    places = np.linspace(0, len(readable) - 1, min(_SHOWN, len(readable)))
    for place in np.rint(places).astype(int).tolist():
        found = readable[place]
        try:
            picture, small = thumbnail(source[found.record], _SIDE)
        except (OSError, BrokenImage):
            continue  # removed since the survey
        size = f"{picture.width} x {picture.height}"
        yield tile(small, [os.path.basename(found.name), size])


def _named(found: SampledRecord) -> str:
    detail = found.broken.partition(" (")[2].removesuffix(")")
    name = found.name or "name unknown"
    return f"record {found.record}: {name}" + (f" ({detail})" * bool(detail))


def _list(counts: Mapping[str, int]) -> str:
    """Text of the eight most frequent, as "JPEG RGB 12"."""
    parts = [f"{name} {count:,}" for name, count in counts.items()]
    rest = [f"{len(parts) - 8} more kinds"] if len(parts) > 8 else []
    return ", ".join(parts[:8] + rest)


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"
