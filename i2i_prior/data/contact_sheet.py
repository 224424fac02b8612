"""Contact sheets: thumbnails with lines of text below, for report pages."""

import io
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from i2i_prior.data.decode_image import Picture
from i2i_prior.data.record import Record
from i2i_prior.report import html

STYLE = """
.tiles{display:flex;flex-wrap:wrap;gap:14px;align-items:flex-end}
.tiles figure{margin:0;max-width:150px}
.tiles img{margin:0 auto}
.tiles figcaption{line-height:1.3;margin-top:4px;overflow-wrap:anywhere;
text-align:center}
.group{display:flex;gap:14px;align-items:flex-end;flex-wrap:wrap;padding:12px;
margin:0 0 12px}
.group figure:first-child{border-right:1px solid var(--line);
padding-right:14px}
"""


def fit(pixels: np.ndarray, side: int) -> np.ndarray:
    """Shrinks (H, W, 3) uint8 so that the longer side is at most `side`."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(image)


def thumbnail(record: Record, side: int) -> tuple[Picture, np.ndarray]:
    """Picture of a record, and its thumbnail of at most `side` pixels;
    BrokenImage if it cannot be decoded."""
    picture = Picture(record)
    width, height = picture.width, picture.height
    scale = min(1, side / max(width, height))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    (small,) = picture.cut([((0, 0, width, height), size)])
    return picture, small


def tile(pixels: np.ndarray | None, lines: Sequence[str]) -> str:
    """A figure: pixels (H, W, 3) uint8, or none, with text below."""
    picture = ""
    if pixels is not None:
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "JPEG", quality=85)
        picture = html.picture(encoded.getvalue(), "", "jpeg")
    text = "<br>".join(map(html.escape, lines))
    return f"<figure>{picture}<figcaption>{text}</figcaption></figure>"


def tiles(figures: Iterable[str]) -> str:
    """Tiles side by side, in as many rows as it takes."""
    return f'<div class="tiles">{"".join(figures)}</div>'


def group(figures: Iterable[str]) -> str:
    """A frame around tiles, the first of them set apart."""
    return f'<div class="wide group">{"".join(figures)}</div>'
