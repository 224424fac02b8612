"""A checkpoint's numbers: does it listen, and how far is it from the data?"""

from __future__ import annotations

from typing import Any

import numpy as np

from i2i_prior.data.evaluation import evaluation_crops
from i2i_prior.data.sources import Source
from i2i_prior.evaluation.features import (
    FEATURES,
    Features,
    load_features,
    metric_name,
)
from i2i_prior.evaluation.frechet import frechet_distance
from i2i_prior.evaluation.generate import (
    Generator,
    SampleOptions,
    generate_for,
)
from i2i_prior.evaluation.retrieval import condition_match
from i2i_prior.evaluation.statistics import FeatureStatistics
from i2i_prior.models.functional import Flat
from i2i_prior.tasks.modules import view_size

# Conditions that compete for a generated image: chance is 1 in 64.
GROUP = 64


def held_out(
    config: Any, source: Source, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fixed crops and what the encoder sees of them.

    Returns:
      images uint8 (count, S, S, 3), views uint8 (count, V, V, 3) of the same
      boxes.
    """

    def crops(size: int) -> np.ndarray:
        return evaluation_crops(
            source, count, size, seed=0, min_scale=config.data.min_scale
        )

    images = crops(config.data.image_size)
    side = view_size(config)
    if side == config.data.image_size:
        return images, images
    return images, crops(side)


def score(
    references: np.ndarray, generated: np.ndarray, features: Features
) -> dict[str, float]:
    """Condition match and Frechet distance.

    Args:
      references: uint8 (N, S, S, 3), the conditions.
      generated: uint8 (N, S, S, 3), one image for each.
      features: of the Frechet distance; the match is always measured on
        thumbnails and gradient histograms.

    Returns:
      {"top1", "top5", "chance", "mean_rank", "FD-..."}; the match is the
      mean over groups of 64 conditions.
    """
    groups = max(len(references) // GROUP, 1)
    size = min(GROUP, len(references))
    matches = [
        condition_match(
            references[g * size : (g + 1) * size],
            generated[g * size : (g + 1) * size],
            FEATURES["thumbnails"],
        )
        for g in range(groups)
    ]
    result = {
        name: float(np.mean([match[name] for match in matches]))
        for name in matches[0]
    }
    result[metric_name(features.name)] = frechet_distance(
        statistics(features, references), statistics(features, generated)
    )
    return result


def statistics(features: Features, images: np.ndarray) -> FeatureStatistics:
    """Mean and covariance of the features of uint8 images."""
    found = features(images)
    stats = FeatureStatistics(found.shape[1])
    stats.update(found)
    return stats


def evaluate(
    config: Any,
    generator: Generator,
    parameters: Flat,
    source: Source,
    *,
    progress: Any = None,
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Generates one image for each held-out crop and scores them.

    Args:
      config: a run's; the `evaluate` and `sample` sections count.
      generator, parameters: the model.
      source: held-out images.
      progress: called with the number of finished images.

    Returns:
      a result for the run's evaluations folder, the conditions and the
      generated images, both uint8 (N, S, S, 3).

    Raises:
      UserError: for an unknown feature set or an unusable source.
    """
    features = load_features(config.evaluate.features)
    count = config.evaluate.num_samples
    images, views = held_out(config, source, count)
    generated = generate_for(
        generator,
        parameters,
        views,
        guidance=config.sample.guidance,
        options=SampleOptions.from_config(config.sample),
        seed=config.seed,
        batch_size=config.evaluate.batch_size,
        progress=progress,
    )
    result = {
        "metrics": score(images, generated, features),
        "features": features.name,
        "match_features": FEATURES["thumbnails"].name,
        "num_samples": count,
        "reference": config.data.held_out or config.data.source,
        "reference_fingerprint": source.fingerprint(),
        "solver": config.sample.solver,
        "steps": config.sample.steps,
        "guidance": config.sample.guidance,
        "seed": config.seed,
    }
    return result, images, generated
