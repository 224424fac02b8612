"""Grids of images, and their files: PNG and GIF."""

from __future__ import annotations

import io
import operator
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from i2i_prior.errors import UserError
from i2i_prior.io.files import write_bytes

_INK = (60, 60, 60)
_HEADER = 20  # height of a line of text above a grid, in pixels


def to_uint8(x: np.ndarray) -> np.ndarray:
    """Float in [-1, 1] -> uint8: clip(round(127.5 x + 127.5), 0, 255).

    Values are rounded to the nearest level (halves to even), not truncated:
    that would darken an image by half a level, which changes Frechet distances.
    NaN gives 0.
    """
    levels = np.rint(np.asarray(x, np.float32) * 127.5 + 127.5)
    return np.nan_to_num(np.clip(levels, 0, 255), nan=0.0).astype(np.uint8)


def from_uint8(x: np.ndarray) -> np.ndarray:
    """uint8 -> float32 in [-1, 1]: x / 127.5 - 1. to_uint8 brings it back."""
    return np.asarray(x).astype(np.float32) / np.float32(127.5) - 1


def grid(
    images: np.ndarray,
    columns: int | None = None,
    pad: int = 2,
    background: int | tuple[int, int, int] = 255,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    scale: int = 1,
    resample: str = "nearest",
) -> np.ndarray:
    """Lays images out in a grid, uint8 (height, width, 3).

    Args:
        images: uint8 (N, H, W, 3), filled row by row, or (R, C, H, W, 3).
        columns: images a row for N images; default about a square.
        pad: pixels around every image, also at the border.
        background: grey level or RGB.
        row_labels, column_labels: short texts, left of the rows and above the
            columns.
        scale: whole factor by which images are enlarged.
        resample: "nearest" keeps pixels visible, "bicubic" smooths them.
    """
    images = np.asarray(images)
    if images.ndim == 5:
        columns = images.shape[1]
        images = images.reshape(-1, *images.shape[2:])
    _check(images)
    columns = columns or int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    images = _enlarge(images, scale, resample)
    H, W = images.shape[1:3]
    sheet = np.empty(
        (rows * (H + pad) + pad, columns * (W + pad) + pad, 3), np.uint8
    )
    sheet[:] = background
    for index, image in enumerate(images):
        top = pad + index // columns * (H + pad)
        left = pad + index % columns * (W + pad)
        sheet[top : top + H, left : left + W] = image
    if row_labels:
        tops = [pad + row * (H + pad) for row in range(rows)]
        sheet = _label_rows(sheet, row_labels, tops, H, background)
    if column_labels:
        lead = sheet.shape[1] - (columns * (W + pad) + pad)
        spans = [
            (lead + pad + column * (W + pad), W) for column in range(columns)
        ]
        sheet = _label_columns(sheet, column_labels, spans, background)
    return sheet


def condition_grid(
    conditions: np.ndarray,
    variations: np.ndarray,
    targets: np.ndarray | None = None,
    scale: int | None = None,
    pad: int = 2,
) -> np.ndarray:
    """Grid of conditions, their variations, and targets, with a header.

    Args:
        conditions: uint8 (N, H', W', 3), brought to the variations' size.
        variations: uint8 (N, K, H, W, 3).
        targets: uint8 (N, H, W, 3), what the variations are compared with;
            the columns are then called source, samples and target.
        scale: whole enlarging factor; default makes an image about 96 high.

    Returns:
        uint8 (height, width, 3).
    """
    if variations.ndim != 5 or len(conditions) != len(variations):
        raise UserError(
            "a condition grid needs (N, H, W, 3) conditions and (N, K, H, W, "
            f"3) variations, not {conditions.shape} and {variations.shape}."
        )
    H, W = variations.shape[2:4]
    scale = scale or max(1, round(96 / H))
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
    sheets = [grid(part, pad=pad, scale=scale) for part in parts]
    gap = np.full((len(sheets[0]), max(4, W * scale // 8), 3), 255, np.uint8)
    spans, columns, start = [], [], 0
    for sheet in sheets:
        spans.append((start + pad, sheet.shape[1] - 2 * pad))
        columns += [sheet, gap]
        start += sheet.shape[1] + gap.shape[1]
    whole = np.concatenate(columns[:-1], axis=1)
    return _label_columns(whole, names, spans, 255)


def save_png(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Writes uint8 (H, W, 3) as PNG, atomically."""
    _check(np.asarray(image)[None])
    encoded = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(encoded, "PNG", optimize=True)
    write_bytes(path, encoded.getvalue())


def save_gif(
    path: str | os.PathLike[str],
    frames: np.ndarray,
    seconds_per_frame: float = 0.1,
    boomerang: bool = True,
) -> None:
    """Writes uint8 (F, H, W, 3) as an endless GIF, atomically.

    With `boomerang` the frames run forth and back, so that the loop has no
    jump. GIF counts in hundredths of a second and has 256 colours a frame.
    """
    frames = np.asarray(frames)
    _check(frames)
    if boomerang:
        frames = np.concatenate([frames, frames[-2:0:-1]])
    pictures = [Image.fromarray(frame) for frame in frames]
    encoded = io.BytesIO()
    pictures[0].save(
        encoded,
        "GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=max(10, round(100 * seconds_per_frame) * 10),
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


def _enlarge(images: np.ndarray, scale: int, resample: str) -> np.ndarray:
    if resample not in ("nearest", "bicubic"):
        raise UserError(
            f"there is no resampling '{resample}'; use nearest or bicubic."
        )
    if scale == 1:
        return images
    if resample == "nearest":
        return images.repeat(scale, axis=1).repeat(scale, axis=2)
    size = (images.shape[2] * scale, images.shape[1] * scale)
    return np.stack(
        [
            np.asarray(
                Image.fromarray(i).resize(size, Image.Resampling.BICUBIC)
            )
            for i in images
        ]
    )


def _font(labels: Sequence[str], widths: Sequence[float]):
    """The default font as large as fits every label, 8 to 13 points."""
    for size in range(13, 8, -1):
        font = ImageFont.load_default(size)
        if all(map(operator.le, map(font.getlength, labels), widths)):
            return font
    return ImageFont.load_default(8)


def _label_columns(
    sheet: np.ndarray,
    labels: Sequence[str],
    spans: Sequence[tuple[int, int]],
    background: int | tuple[int, int, int],
) -> np.ndarray:
    """Adds a line of text on top, each label centred on its (left, width)."""
    header = np.empty((_HEADER, sheet.shape[1], 3), np.uint8)
    header[:] = background
    labelled = Image.fromarray(np.concatenate([header, sheet]))
    draw = ImageDraw.Draw(labelled)
    font = _font(labels, [width for _, width in spans])
    for label, (left, width) in zip(labels, spans, strict=False):
        draw.text(
            (left + width / 2, _HEADER / 2),
            label,
            fill=_INK,
            font=font,
            anchor="mm",
        )
    return np.asarray(labelled)


def _label_rows(
    sheet: np.ndarray,
    labels: Sequence[str],
    tops: Sequence[int],
    height: int,
    background: int | tuple[int, int, int],
) -> np.ndarray:
    """Adds texts on the left, each in the middle of its row."""
    font = _font(labels, [160] * len(labels))
    width = 8 + round(max(map(font.getlength, labels)))
    margin = np.empty((sheet.shape[0], width, 3), np.uint8)
    margin[:] = background
    labelled = Image.fromarray(np.concatenate([margin, sheet], axis=1))
    draw = ImageDraw.Draw(labelled)
    for label, top in zip(labels, tops, strict=False):
        place = (width - 4, top + height / 2)
        draw.text(place, label, fill=_INK, font=font, anchor="rm")
    return np.asarray(labelled)
