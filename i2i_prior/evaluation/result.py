"""Results of a measurement: JSON files, a line for a paper, a picture.

RUN/evaluations/STEP-FEATURES.json   the numbers and their provenance
                STEP-FEATURES.png    the best and the worst conditions
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from i2i_prior.evaluation.features.extractor import Extractor
from i2i_prior.evaluation.measures.distances import (
    feature_rows,
    squared_distances,
)
from i2i_prior.evaluation.measures.intervals import Interval
from i2i_prior.evaluation.sets.collect import Collected
from i2i_prior.io.files import nan_to_null, write_bytes
from i2i_prior.report import image_grid

_SHOWN = 8  # digits of a hash in the line
_WEIGHTS = ("published_file_sha256", "weights_sha256")
_SIDE = 96  # pixels, about, of an image in it


def write_result(path: str | Path, result: Mapping[str, Any]) -> None:
    """Writes a result as JSON, atomically; not finite numbers become null."""
    plain = nan_to_null(dict(result))
    text = json.dumps(plain, indent=1, allow_nan=False, default=np.generic.item)
    write_bytes(path, f"{text}\n".encode())


def result_path(
    workdir: Path, step: int, extractor: Extractor, suffix: str = ""
) -> Path:
    """File of a step's result in a run directory.

    The suffix comes after the name: `i2i-prior evaluate` gives the digest of
    its samples' folder, and so leaves the files of the run itself alone.
    """
    name = extractor.name.replace("/", "_") + (suffix and f"-{suffix}")
    return Path(workdir) / "evaluations" / f"{step:08d}-{name}.json"


def with_sampling(
    config: ConfigDict, step: int, result: dict[str, Any]
) -> dict[str, Any]:
    """Result of `evaluate_samples` with the options of the samples."""
    match = {"match_features": "thumbnails"}
    return {
        "step": step,
        **result,
        **(match if "top1" in result["metrics"] else {}),
        "features": result["extractor"]["name"],
        "per_condition": config.evaluate.per_condition,
        "solver": config.sample.solver,
        "steps": config.sample.steps,
        "guidance": config.sample.guidance,
        "seed": config.seed,
    }


def write_evaluation(
    path: Path, result: dict[str, Any], picture: np.ndarray | None
) -> None:
    """Writes both files of a run, each atomically; the numbers come last."""
    if picture is not None:
        image_grid.save_png(path.with_suffix(".png"), picture)
    write_result(path, result)


def format_line(result: Mapping[str, Any]) -> str:
    """Line that a paper can quote.

    As "FID 12.34 +- 0.21 (95 %), N 50000, preset adm, reference ref.npz
    (1a2b3c4d), weights 6726825d".
    """
    intervals = result["intervals"]
    parts = [
        f"{name} {_format_number(value, intervals.get(name))}"
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
    columns: int = 8,
) -> np.ndarray:
    """Grid of the generated images nearest to and farthest from the reference.

    Each has its nearest reference image below it: a near copy of it shows
    memorisation, a far one is a failure, or new. The distance is the Euclidean
    one of a tap's features; images are row -> uint8 (H, W, 3).
    """
    distance, nearest = _nearest(
        generated.features[tap], reference.features[tap]
    )
    columns = min(columns, len(distance))
    order = np.argsort(distance, kind="stable")
    ends = order[:columns], order[::-1][:columns]
    height, width = generated_image(int(order[0])).shape[:2]
    sheet, labels = [], []
    for label, rows in zip(("nearest", "farthest"), ends, strict=True):
        low, high = distance[rows[0]], distance[rows[-1]]
        labels += [f"{label}, {low:.3g} to {high:.3g}", "its reference"]
        sheet += [
            [_resized(image(int(row)), width, height) for row in indices]
            for image, indices in (
                (generated_image, rows),
                (reference_image, nearest[rows]),
            )
        ]
    scale = max(1, round(_SIDE / height))
    return image_grid.grid(np.array(sheet), row_labels=labels, scale=scale)


def _nearest(
    rows: np.ndarray, among: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each row to its nearest one `among`, and its index there."""
    distance = np.empty(len(rows))
    nearest = np.empty(len(rows), np.int64)
    for part, slab in squared_distances(*feature_rows(rows, among)):
        nearest[part] = slab.argmin(axis=1)
        distance[part] = np.sqrt(slab.min(axis=1).clip(0.0))
    return distance, nearest


def _resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    size, bicubic = (width, height), Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize(size, bicubic))


def _format_number(value: float, interval: Mapping[str, Any] | None) -> str:
    if interval is None:
        return f"{value:.4g}"
    return str(Interval(value=value, **interval))
