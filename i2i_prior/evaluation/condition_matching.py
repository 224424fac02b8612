"""Conditions beside their samples, matched while they stream past."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from i2i_prior.data.decode_image import center_crop
from i2i_prior.evaluation.condition_fidelity import (
    GROUP,
    Fidelity,
    fidelity_of,
    joined,
)
from i2i_prior.evaluation.features.colour_texture import FEATURES
from i2i_prior.evaluation.features.extractor import Extractor
from i2i_prior.evaluation.retrieval import condition_match
from i2i_prior.evaluation.sample_chunks import Chunk
from i2i_prior.models.functional import Flat
from i2i_prior.report import image_grid

_SHOWN = 6  # conditions at each end of the picture
_MOST_SAMPLES = 8  # of each of them

Embed = Callable[[np.ndarray], np.ndarray]  # uint8 (n, H, W, 3) -> (n, d)


@dataclass(frozen=True)
class Embedder:
    """One embedding that conditions and samples are compared by.

    Attributes:
      name: what its metrics begin with, as "fidelity".
      embed: of uint8 images.
      views: whether it sees what the run's encoder saw of a condition, and
        samples at that size; else both as they are.
    """

    name: str
    embed: Embed
    views: bool = False


@dataclass
class ConditionMatcher:
    """Matches samples with their conditions, in groups of GROUP.

    Conditions beyond the last whole group are left out, but for one group
    that is all there is.

    Args:
      eyes: of `condition_fidelity`; the picture goes by the first one.
      match: whether `retrieval.condition_match` on thumbnails is taken.
    """

    eyes: Sequence[Embedder]
    match: bool
    fidelities: dict[str, list[Fidelity]] = field(default_factory=dict)
    matches: list[dict[str, float]] = field(default_factory=list)
    _waiting: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    _ends: list[tuple[float, np.ndarray, np.ndarray]] = field(
        default_factory=list
    )

    def add(self, chunk: Chunk) -> None:
        """Takes the next conditions."""
        assert chunk.images is not None
        assert chunk.views is not None
        self._waiting += zip(
            chunk.images, chunk.views, chunk.samples, strict=True
        )
        while len(self._waiting) >= GROUP:
            self._group(self._waiting[:GROUP])
            del self._waiting[:GROUP]

    def finish(self) -> tuple[dict[str, float], dict[str, Any]]:
        """The metrics, and the intervals of some of them."""
        if not (self.fidelities or self.matches) and self._waiting:
            self._group(self._waiting)
        metrics = {
            name: float(np.mean([match[name] for match in self.matches]))
            for name in (self.matches or [{}])[0]
        }
        intervals: dict[str, Any] = {}
        for name, parts in self.fidelities.items():
            whole = joined(parts)
            metrics |= whole.metrics(name)
            intervals |= whole.intervals(name)
        return metrics, intervals

    def picture(self) -> np.ndarray | None:
        """The best and worst conditions by cosine, with their samples."""
        if not self._ends:
            return None
        half = min(_SHOWN, len(self._ends) // 2)
        best, worst = self._ends[:half], self._ends[-half:]
        shown = [*best, *worst]
        rows = [
            np.stack([image, *samples[:_MOST_SAMPLES]])
            for _, image, samples in shown
        ]
        labels = [
            f"{'best' if row < len(best) else 'worst'} {score:.3f}"
            for row, (score, _, _) in enumerate(shown)
        ]
        samples = rows[0].shape[0] - 1
        return image_grid.grid(
            np.stack(rows),
            scale=max(1, round(96 / rows[0].shape[1])),
            row_labels=labels,
            column_labels=["condition", *["sample"] * samples],
        )

    def _group(self, waiting: Sequence[tuple[np.ndarray, ...]]) -> None:
        images, views, samples = (
            np.stack(column) for column in zip(*waiting, strict=True)
        )
        if self.match:
            self.matches.append(
                condition_match(images, samples, FEATURES["thumbnails"])
            )
        found = [self._look(eye, images, views, samples) for eye in self.eyes]
        if found:
            self._best_and_worst(found[0].cosine, images, samples)

    def _look(
        self,
        eye: Embedder,
        images: np.ndarray,
        views: np.ndarray,
        samples: np.ndarray,
    ) -> Fidelity:
        seen = samples.reshape(-1, *samples.shape[2:])
        if eye.views:
            side = views.shape[1]
            seen = np.stack([center_crop(image, side) for image in seen])
        drawn = eye.embed(seen).reshape(*samples.shape[:2], -1)
        found = fidelity_of(eye.embed(views if eye.views else images), drawn)
        self.fidelities.setdefault(eye.name, []).append(found)
        return found

    def _best_and_worst(
        self, scores: np.ndarray, images: np.ndarray, samples: np.ndarray
    ) -> None:
        ends = self._ends + [
            (float(score), image, some)
            for score, image, some in zip(scores, images, samples, strict=True)
        ]
        ends.sort(key=lambda end: -end[0])
        # Both ends are kept, and nothing in between.
        middle = slice(_SHOWN, max(_SHOWN, len(ends) - _SHOWN))
        del ends[middle]
        self._ends = ends


def embedder(generator: Any, parameters: Flat, batch_size: int) -> Embed:
    """The run's own encoder: the mean over the tokens of an image.

    Args:
      generator, parameters: the model.
      batch_size: images at once; the last batch is filled up.
    """
    return in_batches(
        lambda views: generator.embedding(parameters, views), batch_size
    )


def extractor_embedder(extractor: Extractor, batch_size: int) -> Embedder:
    """Compares by the features that distances are over."""
    apply: Callable[..., Any] = extractor.apply
    if extractor.traced:
        apply = jax.jit(extractor.apply)

    def embed(images: np.ndarray) -> Any:
        prepared = extractor.prepare(images)
        return apply(extractor.parameters, prepared)[extractor.first]

    name = "fidelity-" + extractor.label.removeprefix("FD-")
    return Embedder(name, in_batches(embed, batch_size))


def in_batches(embed: Callable[[np.ndarray], Any], size: int) -> Embed:
    """Embeds `size` images at once; the last batch repeats its last one."""

    def whole(images: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(images), size):
            rows = np.minimum(np.arange(start, start + size), len(images) - 1)
            parts.append(np.asarray(embed(images[rows])))
        return np.concatenate(parts)[: len(images)]

    return whole
