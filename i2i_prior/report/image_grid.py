"""Grids of images, and their files: PNG and GIF."""

import io
import operator
import os
from collections.abc import Sequence
from typing import Any

import einops
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from i2i_prior.errors import UserError
from i2i_prior.io.files import write_bytes

_INK = (60, 60, 60)
_PAD = 2  # pixels around an image
_HEADER = 20  # height of a line of text above a grid, in pixels


def from_uint8(x: np.ndarray) -> np.ndarray:
    """uint8 -> float32 in [-1, 1]: x / 127.5 - 1."""
    return np.asarray(x).astype(np.float32) / np.float32(127.5) - 1


def grid(
    images: np.ndarray,
    columns: int | None = None,
    pad: int = _PAD,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    scale: int = 1,
) -> np.ndarray:
    """Lays images out in a grid on white, uint8 (height, width, 3).

    Args:
      images: uint8 (N, H, W, 3), filled row by row, or (R, C, H, W, 3).
      columns: images a row for N images; default about a square.
      pad: pixels around every image, also at the border.
      row_labels, column_labels: short texts, left of the rows and above the
        columns.
      scale: whole factor by which images are enlarged.
    """
    images = np.asarray(images)
    if images.ndim == 5:
        columns = images.shape[1]
        images = images.reshape(-1, *images.shape[2:])
    _check(images)
    columns = columns or int(np.ceil(np.sqrt(len(images))))
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    H, W = images.shape[1:3]
    padded = _white(images, (0, -len(images) % columns), (0, pad), (0, pad))
    cells = "(row column) h w c -> (row h) (column w) c"
    sheet = einops.rearrange(padded, cells, column=columns)
    sheet = _white(sheet, (pad, 0), (pad, 0))
    lead = 0
    if row_labels:
        tops = range(pad, len(sheet), H + pad)
        font = _font(row_labels, [160] * len(row_labels))
        lead = 8 + round(max(map(font.getlength, row_labels)))
        places = [(lead - 4, top + H / 2) for top in tops]
        sheet = _white(sheet, (0, 0), (lead, 0))
        sheet = _labelled(sheet, row_labels, places, font, "rm")
    if column_labels:
        lefts = range(lead + pad, sheet.shape[1], W + pad)
        sheet = _label_columns(sheet, column_labels, [(x, W) for x in lefts])
    return sheet


def condition_grid(
    conditions: np.ndarray,
    variations: np.ndarray,
    targets: np.ndarray | None = None,
) -> np.ndarray:
    """Grid of conditions, their variations, and targets, with a header.

    Args:
      conditions: uint8 (N, H', W', 3), brought to the variations' size.
      variations: uint8 (N, K, H, W, 3), shown about 96 pixels high.
      targets: uint8 (N, H, W, 3), what the variations are compared with;
        the columns are then called source, samples and target.
    """
    if variations.ndim != 5 or len(conditions) != len(variations):
        raise UserError(
            "a condition grid needs (N, H, W, 3) conditions and (N, K, H, W, "
            f"3) variations, not {conditions.shape} and {variations.shape}."
        )
    H, W = variations.shape[2:4]
    scale = max(1, round(96 / H))
    if conditions.shape[1:3] != (H, W):
        resized = [
            Image.fromarray(image).resize((W, H), Image.Resampling.LANCZOS)
            for image in conditions
        ]
        conditions = np.stack([np.asarray(image) for image in resized])
    names = ["condition", "variations"]
    parts = [conditions[:, None], variations]
    if targets is not None:
        names = ["source", "samples", "target"]
        parts.append(targets[:, None])
    sheets = [grid(part, scale=scale) for part in parts]
    gap = max(4, W * scale // 8)
    spans, start = [], 0
    for sheet in sheets:
        spans.append((start + _PAD, sheet.shape[1] - 2 * _PAD))
        start += sheet.shape[1] + gap
    apart = [_white(sheet, (0, 0), (0, gap)) for sheet in sheets[:-1]]
    whole = np.concatenate([*apart, sheets[-1]], axis=1)
    return _label_columns(whole, names, spans)


def save_png(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Writes uint8 (H, W, 3) as PNG, atomically."""
    _check(np.asarray(image)[None])
    encoded = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(encoded, "PNG", optimize=True)
    write_bytes(path, encoded.getvalue())


def save_gif(path: str | os.PathLike[str], frames: np.ndarray) -> None:
    """Writes uint8 (F, H, W, 3) as an endless GIF, atomically.

    The frames, 0.1 s each, run forth and back, so that the loop has no jump.
    GIF has 256 colours a frame.
    """
    frames = np.asarray(frames)
    _check(frames)
    first, *others = map(
        Image.fromarray, np.concatenate([frames, frames[-2:0:-1]])
    )
    encoded = io.BytesIO()
    first.save(
        encoded,
        "GIF",
        save_all=True,
        append_images=others,
        duration=100,
        loop=0,
    )
    write_bytes(path, encoded.getvalue())


def _check(images: np.ndarray) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise UserError(
            "pictures are made of uint8 images (N, H, W, 3), not of "
            f"{images.dtype} {images.shape}; convert with to_uint8."
        )
    if not images.size:
        raise UserError("a picture needs at least one image, there is none.")


def _white(images: np.ndarray, *sides: tuple[int, int]) -> np.ndarray:
    """Pads the first axes by (before, after) with white."""
    rest = [(0, 0)] * (images.ndim - len(sides))
    return np.pad(images, [*sides, *rest], constant_values=255)


def _font(labels: Sequence[str], widths: Sequence[float]):
    """The default font as large as fits every label, 8 to 13 points."""
    for size in range(13, 8, -1):
        font = ImageFont.load_default(size)
        if all(map(operator.le, map(font.getlength, labels), widths)):
            return font
    return ImageFont.load_default(8)


def _label_columns(
    sheet: np.ndarray, labels: Sequence[str], spans: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Adds a line of text on top, each label centred on its (left, width)."""
    font = _font(labels, [width for _, width in spans])
    places = [(left + width / 2, _HEADER / 2) for left, width in spans]
    return _labelled(_white(sheet, (_HEADER, 0)), labels, places, font, "mm")


def _labelled(
    sheet: np.ndarray,
    labels: Sequence[str],
    places: Sequence[tuple[float, float]],
    font: Any,
    anchor: str,
) -> np.ndarray:
    picture = Image.fromarray(sheet)
    draw = ImageDraw.Draw(picture)
    for label, place in zip(labels, places, strict=False):
        draw.text(place, label, fill=_INK, font=font, anchor=anchor)
    return np.asarray(picture)
