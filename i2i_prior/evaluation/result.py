"""What comes of a measurement: a JSON, a line for a paper, a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from i2i_prior.evaluation.measures.distances import (
    feature_rows,
    squared_distances,
)
from i2i_prior.evaluation.measures.intervals import Interval
from i2i_prior.evaluation.sets.collect import Collected
from i2i_prior.io.disk import write_errors
from i2i_prior.io.files import write_bytes
from i2i_prior.report import image_grid

_SHOWN = 8  # digits of a hash in the line
_WEIGHTS = ("published_file_sha256", "weights_sha256")
_COLUMNS = 8  # images of a row of the picture
_SIDE = 96  # pixels, about, of an image in it


def write_json(path: str | Path, result: Mapping[str, Any]) -> None:
    """Writes a result; whole or not at all. What is not finite is null.

    Raises:
        UserError: nothing can be written there.
    """
    text = json.dumps(_plain(result), indent=1, allow_nan=False)
    with write_errors(path):
        write_bytes(path, f"{text}\n".encode())


def line(result: Mapping[str, Any]) -> str:
    """One line that a paper can quote.

    As "FID 12.34 +- 0.21 (95 %), N 50000, preset adm, reference ref.npz
    (1a2b3c4d), weights 6726825d".
    """
    intervals = result["intervals"]
    parts = [
        f"{name} {_number(value, intervals.get(name))}"
        for name, value in result["metrics"].items()
    ]
    count = result["num_samples"]
    parts.append(f"N {'not said' if count is None else count}")
    if result["preset"]:
        parts.append(f"preset {result['preset']['name']}")
    reference = result["reference"]
    name = Path(str(reference["file"])).name
    parts.append(f"reference {name} ({reference['hash'][:_SHOWN]})")
    extractor = result["extractor"] or {}
    # People know the published file by its own hash.
    hashes = [extractor.get(key) for key in _WEIGHTS]
    if any(hashes):
        parts.append(f"weights {next(filter(None, hashes))[:_SHOWN]}")
    elif extractor:
        parts.append(f"features {extractor['name']}")
    return ", ".join(parts)


def extremes_picture(
    reference: Collected,
    generated: Collected,
    tap: str,
    reference_image: Callable[[int], np.ndarray],
    generated_image: Callable[[int], np.ndarray],
    columns: int = _COLUMNS,
) -> np.ndarray:
    """The generated images nearest to and farthest from the reference.

    Each has its nearest reference image below it: a near one that is the same
    picture was learnt by heart, a far one is a failure, or new.

    Args:
        reference, generated: with the features of `tap`.
        tap: whose Euclidean distance counts.
        reference_image, generated_image: row -> uint8 (H, W, 3).
        columns: images a row.

    Returns:
        uint8 (height, width, 3), a labelled sheet.
    """
    distance, nearest = _nearest(
        generated.features[tap], reference.features[tap]
    )
    columns = min(columns, len(distance))
    order = np.argsort(distance, kind="stable")
    best, worst = order[:columns], order[::-1][:columns]
    first = generated_image(int(best[0]))
    height, width = first.shape[:2]

    def row(images: Callable[[int], np.ndarray], rows: np.ndarray):
        return np.stack([_sized(images(int(r)), width, height) for r in rows])

    sheet = np.stack(
        [
            row(generated_image, best),
            row(reference_image, nearest[best]),
            row(generated_image, worst),
            row(reference_image, nearest[worst]),
        ]
    )
    labels = [
        f"nearest, {distance[best[0]]:.3g} to {distance[best[-1]]:.3g}",
        "its reference",
        f"farthest, {distance[worst[0]]:.3g} to {distance[worst[-1]]:.3g}",
        "its reference",
    ]
    scale = max(1, round(_SIDE / height))
    return image_grid.grid(sheet, row_labels=labels, scale=scale)


def _nearest(
    rows: np.ndarray, among: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each row to its nearest one `among`, and which that is."""
    distance = np.empty(len(rows))
    which = np.empty(len(rows), np.int64)
    for part, slab in squared_distances(*feature_rows(rows, among)):
        which[part] = slab.argmin(axis=1)
        distance[part] = np.sqrt(slab.min(axis=1).clip(0.0))
    return distance, which


def _sized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    size, bicubic = (width, height), Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize(size, bicubic))


def _number(value: float, interval: Mapping[str, Any] | None) -> str:
    if interval is None:
        return f"{value:.4g}"
    return str(Interval(value=value, **interval))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
