"""Pictures and statistics of the batch of one step."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageDraw, ImageFont

from i2i_prior.data.broken import Batch
from i2i_prior.data.contact_sheet import fit
from i2i_prior.data.record import Source
from i2i_prior.data.sources.registry import open_source
from i2i_prior.errors import UserError
from i2i_prior.report import html, image_grid
from i2i_prior.report.html import section
from i2i_prior.training.input_pipeline import make_pipeline

_SHOWN = 32  # examples
_SIDE, _MOST = 160, 256  # least and greatest side of an enlarged image
_INK, _SOFT = (40, 40, 40), (120, 120, 120)
_LINE = 15  # height of a line of text in pixels
# Arrays of images in a batch, and their titles.
_IMAGES = {"image": "target", "source_image": "source", "view": "view"}


@dataclass(frozen=True)
class Shown:
    """First rows of the batch of one step."""

    step: int
    total: int  # examples in the whole batch
    batch: Batch  # see `Pipeline`
    names: list[str]  # of the records


def _images(batch: Batch) -> dict[str, str]:
    """Arrays of images in the batch, and their titles."""
    return {name: title for name, title in _IMAGES.items() if name in batch}


def take(config: ConfigDict, step: int) -> Shown:
    """The first rows of the batch of a step, the same as in training.

    UserError where `step` is negative, or the data are prepared latents.
    """
    if step < 0:
        raise UserError(f"step {step} is before the first: give 0 or more")
    if config.data.cached:
        raise UserError(
            "this config trains from prepared latents, which are no pictures: "
            "inspect the source that they were prepared from"
        )
    total = config.data.batch_size
    source = open_source(config.data.source)
    rows = range(min(_SHOWN, total))
    batch = make_pipeline(config, source, rows).batch(step)
    names = [_name(source, index) for index in batch["index"].tolist()]
    return Shown(step, total, batch, names)


def statistics(batch: Batch) -> list[tuple[str, str, float, float, float]]:
    """Rows (title, channel, mean, std, share of 0 and 255) of all images.

    Mean and standard deviation are of levels scaled to [-1, 1].
    """
    rows = []
    for array, title in _images(batch).items():
        for channel, name in enumerate(("red", "green", "blue")):
            levels = batch[array][..., channel]
            scaled = image_grid.from_uint8(levels)
            ends = float(((levels == 0) | (levels == 255)).mean())
            row = title, name, float(scaled.mean()), float(scaled.std()), ends
            rows.append(row)
    return rows


def as_text(shown: Shown) -> str:
    """Shapes and statistics as text."""
    of = f"{len(shown.names)} of {shown.total}"
    broken = int((shown.batch["broken"] >= 0).sum())
    lines = [f"step {shown.step}: {of} examples, {broken} substituted"]
    for array, title in _images(shown.batch).items():
        height, width = shown.batch[array].shape[1:3]
        lines.append(f"{title:<8}height {height}, width {width}, uint8")
    lines += ["", "levels in [-1, 1]    mean     std   clipped"]
    lines += [
        f"{title:<8}{name:<9}{mean:>8.3f}{std:>8.3f}{ends:>9.1%}"
        for title, name, mean, std, ends in statistics(shown.batch)
    ]
    return "\n".join(lines)


def write_batch(shown: Shown, name: str, folder: Path) -> list[Path]:
    """Writes `folder`/batch.png and `folder`/inspect.html, entitled `name`."""
    picture, page = folder / "batch.png", folder / "inspect.html"
    image_grid.save_png(picture, contact_sheet(shown))
    rows = [
        (f"{title} {channel}", f"{mean:.3f}", f"{std:.3f}", f"{ends:.1%}")
        for title, channel, mean, std, ends in statistics(shown.batch)
    ]
    image = html.embedded(picture, f"examples of step {shown.step}")
    title = ", ".join(_images(shown.batch).values()).capitalize()
    body = section(title, f'<figure class="wide">{image}</figure>')
    body += section(
        "Channels, levels scaled to [-1, 1]",
        html.table(("", "mean", "std", "at 0 or 255"), rows),
    )
    below = (
        f"The first {len(shown.names)} of {shown.total} examples of step "
        f"{shown.step}, after crop, flip and augmentation"
    )
    return [picture, html.write_page(page, name, below, body)]


def contact_sheet(shown: Shown) -> np.ndarray:
    """Images of each example side by side over number and name, uint8."""
    batch = shown.batch
    examples = []
    for row, name in enumerate(shown.names):
        parts = [_sized(batch[array][row]) for array in _images(shown.batch)]
        index, broken = int(batch["index"][row]), int(batch["broken"][row])
        instead = f" instead of {broken}" if broken >= 0 else ""
        lines = [f"record {index}{instead}", os.path.basename(name)]
        examples.append(_captioned(parts, lines))
    columns = {1: 6, 2: 4, 3: 3}[len(_images(shown.batch))]
    return image_grid.grid(
        np.stack(examples), columns=min(columns, len(examples)), pad=12
    )


def _sized(image: np.ndarray) -> np.ndarray:
    """The image, enlarged by a whole factor or shrunk to `_MOST`."""
    side = max(image.shape[:2])
    if side > _MOST:
        return fit(image, _MOST)
    factor = max(1, _SIDE // side)
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def _captioned(
    images: Sequence[np.ndarray], lines: Sequence[str]
) -> np.ndarray:
    """Images side by side, aligned at the bottom, over lines of text."""
    gap = 4
    height = max(len(image) for image in images)
    width = sum(image.shape[1] + gap for image in images) - gap
    tile = Image.new("RGB", (width, height + _LINE * len(lines) + 4), "white")
    left = 0
    for image in images:
        tile.paste(Image.fromarray(image), (left, height - len(image)))
        left += image.shape[1] + gap
    draw = ImageDraw.Draw(tile)
    font = ImageFont.load_default(12)
    for row, (line, ink) in enumerate(zip(lines, (_INK, _SOFT), strict=True)):
        text = _shortened(line, width, font.getlength)
        draw.text((0, height + 2 + row * _LINE), text, fill=ink, font=font)
    return np.asarray(tile)


def _shortened(text: str, width: float, length) -> str:
    """The text, or its end after three dots, since names differ there."""
    if length(text) <= width:
        return text
    while text and length(f"...{text}") > width:
        text = text[1:]
    return f"...{text}"


def _name(source: Source, index: int) -> str:
    try:
        return source[index].name
    except OSError:
        return ""
