"""The scores of a checkpoint in its run directory.

RUN/evaluations/STEP-FEATURES.json   the numbers and what they are of
                STEP-FEATURES.png    the best and the worst conditions
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.evaluation.evaluate import EvalSpec
from i2i_prior.evaluation.features.colour_texture import FEATURES
from i2i_prior.evaluation.result import write_json
from i2i_prior.report import image_grid


def scores_path(
    workdir: Path, step: int, wanted: EvalSpec, more: str = ""
) -> Path:
    """Where the scores of a step are, over these features.

    `more` follows the name: what `i2i-prior evaluate` writes has that of its
    samples' folder, and takes no place of what the run itself has written.
    """
    name = wanted.extractor.name.replace("/", "_") + f"-{more}" * bool(more)
    return Path(workdir) / "evaluations" / f"{step:08d}-{name}.json"


def described(config: Any, step: int, result: dict[str, Any]) -> dict[str, Any]:
    """A result of `evaluate` with how its samples were drawn."""
    own = {}
    if "top1" in result["metrics"]:
        own["match_features"] = FEATURES["thumbnails"].name
    return {
        "step": step,
        **result,
        **own,
        "features": result["extractor"]["name"],
        "per_condition": config.evaluate.per_condition,
        "solver": config.sample.solver,
        "steps": config.sample.steps,
        "guidance": config.sample.guidance,
        "seed": config.seed,
    }


def write_scores(
    path: Path, result: dict[str, Any], picture: np.ndarray | None
) -> None:
    """Writes both files, each whole or not at all; the numbers come last.

    Raises:
      UserError: where they cannot be written.
    """
    if picture is not None:
        image_grid.save_png(path.with_suffix(".png"), picture)
    write_json(path, result)
