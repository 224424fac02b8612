"""Pages of pictures: thumbnails with lines of text below, inside one file.

As `page`, and for the same pages: whatever comes from a data set passes
`escape`, and no link leads out.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from i2i_prior.data.decode_image import (
    Encoded,
    Picture,
)
from i2i_prior.report.curves import short
from i2i_prior.report.html import (
    STYLE,
    escape,
)

_STYLE = """
.tiles{display:flex;flex-wrap:wrap;gap:14px;align-items:flex-end}
.tiles figure{margin:0;max-width:150px}
.tiles img{margin:0 auto}
.tiles figcaption{line-height:1.3;margin-top:4px;overflow-wrap:anywhere;
text-align:center}
.group{display:flex;gap:14px;align-items:flex-end;flex-wrap:wrap;padding:12px;
margin:0 0 12px}
.group figure:first-child{border-right:1px solid var(--line);
padding-right:14px}
rect.bar{fill:var(--accent)}
"""
_WIDTH, _HEIGHT, _MARGIN, _TOP, _BOTTOM = 560, 220, 24, 22, 30  # SVG units


def document(title: str, below: str, body: str) -> str:
    """A whole page.

    Args:
        title: also of the window.
        below: one line of plain text under the title; the time is added.
        body: HTML.
    """
    written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{STYLE}{_STYLE}</style></head>"
        f"<body><main><h1>{escape(title)}</h1>"
        f'<div class="soft">{escape(below)}, written {written}</div>'
        f"{body}</main></body></html>\n"
    )


def cards(values: Iterable[tuple[str, str]]) -> str:
    """Names and values, each pair on a card."""
    boxes = "".join(
        f'<div class="card"><span>{escape(name)}</span>'
        f"<b>{escape(value)}</b></div>"
        for name, value in values
    )
    return f'<div class="cards">{boxes}</div>'


def fit(pixels: np.ndarray, side: int) -> np.ndarray:
    """Shrinks (H, W, 3) uint8 so that the longer side is at most `side`."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(image)


def thumbnail(record: Encoded, side: int) -> tuple[Picture, np.ndarray]:
    """A record's picture, and it whole, its longer side at most `side`.

    Raises:
        BrokenImage: it cannot be decoded.
    """
    picture = Picture(record)
    width, height = picture.width, picture.height
    scale = min(1, side / max(width, height))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    (small,) = picture.cut([((0, 0, width, height), size)])
    return picture, small


def tile(pixels: np.ndarray | None, lines: Sequence[str]) -> str:
    """A picture (H, W, 3) uint8 as it is, or none, with text below."""
    picture = ""
    if pixels is not None:
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "JPEG", quality=85)
        data = base64.b64encode(encoded.getvalue()).decode()
        picture = f'<img alt="" src="data:image/jpeg;base64,{data}">'
    text = "<br>".join(map(escape, lines))
    return f"<figure>{picture}<figcaption>{text}</figcaption></figure>"


def tiles(figures: Iterable[str]) -> str:
    """Tiles side by side, in as many rows as it takes."""
    return f'<div class="tiles">{"".join(figures)}</div>'


def group(figures: Iterable[str]) -> str:
    """Tiles that belong together, the first one set apart, in a frame."""
    return f'<div class="wide group">{"".join(figures)}</div>'


def bars(title: str, labels: Sequence[str], counts: Sequence[int]) -> str:
    """A bar chart as a figure, with the counts above the bars.

    Args:
        title: above it.
        labels: below the bars; where there is one more, at their edges.
        counts: not negative, at least one.
    """
    slot = (_WIDTH - 2 * _MARGIN) / len(counts)
    highest = max(*counts, 1)
    floor = _HEIGHT - _BOTTOM
    first = 0.5 if len(labels) == len(counts) else 0.0
    marks = [
        f'<line class="rule" x1="0" x2="{_WIDTH}" y1="{floor}" y2="{floor}"/>'
    ]
    for place, label in enumerate(labels):
        x = _MARGIN + (place + first) * slot
        marks.append(_text(x, _HEIGHT - 10, label))
    for place, count in enumerate(counts):
        height = count / highest * (floor - _TOP)
        left = _MARGIN + (place + 0.06) * slot
        marks.append(
            f'<rect class="bar" x="{left:.1f}" y="{floor - height:.1f}" '
            f'width="{0.88 * slot:.1f}" height="{height:.1f}"/>'
        )
        if count:
            text = f"{count:,}" if count < 100_000 else short(count)
            middle = _MARGIN + (place + 0.5) * slot
            marks.append(_text(middle, floor - height - 6, text))
    return (
        f'<figure class="plot"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">'
        f"{''.join(marks)}</svg></figure>"
    )


def _text(x: float, y: float, text: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle">'
        f"{escape(text)}</text>"
    )
