"""Matching of conditions with their samples while these stream past."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from i2i_prior.data.crops import center_crop
from i2i_prior.evaluation.features.extractor import Extractor
from i2i_prior.evaluation.measures.conditions import (
    GROUP,
    Fidelity,
    condition_fidelity,
)
from i2i_prior.evaluation.sampling import SampleChunk
from i2i_prior.inference.batches import padded_batches
from i2i_prior.inference.generator import Generator
from i2i_prior.models.functional import Flat
from i2i_prior.report import image_grid

_SHOWN = 6  # conditions at each end of the picture
_MOST_SAMPLES = 8  # of each of them
_SIDE = 96  # pixels, about, of an image in it

Embedder = Callable[[np.ndarray], np.ndarray]  # uint8 (n, H, W, 3) -> (n, d)


@dataclass(frozen=True)
class ConditionGroup:
    """Conditions that are compared with each other, and their samples."""

    images: np.ndarray  # these three as in `SampleChunk`
    views: np.ndarray
    samples: np.ndarray
    encoder: Embedder | None  # of views, by the run's own encoder
    features: Embedder | None  # of images, by the extractor of the distances


def encoder_fidelity(group: ConditionGroup) -> Fidelity:
    """Fidelity by the run's encoder, which is shown samples as views."""
    side = group.views.shape[1]
    samples = np.stack(
        [[center_crop(image, side) for image in row] for row in group.samples]
    )
    return _fidelity(group.encoder, group.views, samples)


def feature_fidelity(group: ConditionGroup) -> Fidelity:
    """Fidelity by the features of the distances."""
    return _fidelity(group.features, group.images, group.samples)


def _fidelity(
    embed: Embedder | None, conditions: np.ndarray, samples: np.ndarray
) -> Fidelity:
    assert embed is not None
    drawn = embed(samples.reshape(-1, *samples.shape[2:]))
    drawn = drawn.reshape(*samples.shape[:2], -1)
    return condition_fidelity(embed(conditions), drawn)


@dataclass
class ConditionMatcher:
    """Matches samples with their conditions, in groups of GROUP.

    Conditions beyond the last whole group are left out, unless there is no
    whole one.
    """

    functions: Mapping[str, Callable[[ConditionGroup], Any]]  # by metric
    encoder: Embedder | None = None  # both as in `ConditionGroup`
    features: Embedder | None = None
    # Cosine, image and samples (K, S, S, 3) of conditions, best first, by the
    # first `Fidelity` among the results.
    best_and_worst: list[tuple[float, np.ndarray, np.ndarray]] = field(
        default_factory=list
    )
    _waiting: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    _matches: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, chunk: SampleChunk) -> None:
        """Takes the next conditions."""
        assert chunk.images is not None
        # Without an encoder no metric looks at the views.
        views = chunk.images if chunk.views is None else chunk.views
        self._waiting += zip(chunk.images, views, chunk.samples, strict=True)
        while len(self._waiting) >= GROUP:
            self._match(self._waiting[:GROUP])
            del self._waiting[:GROUP]

    def finish(self) -> dict[str, list[Any]]:
        """Results of each metric, one a group."""
        if not self._matches and self._waiting:
            self._match(self._waiting)
        return self._matches

    def _match(self, waiting: list[tuple[np.ndarray, ...]]) -> None:
        images, views, samples = map(np.stack, zip(*waiting, strict=True))
        group = ConditionGroup(
            images, views, samples, self.encoder, self.features
        )
        found = {name: match(group) for name, match in self.functions.items()}
        for name, result in found.items():
            self._matches.setdefault(name, []).append(result)
        for result in found.values():
            if isinstance(result, Fidelity):
                self._rank(result.cosine, group)
                break

    def _rank(self, cosines: np.ndarray, group: ConditionGroup) -> None:
        """Keeps the best and worst conditions so far."""
        ranked = self.best_and_worst
        ranked += zip(
            cosines.tolist(), group.images, group.samples, strict=True
        )
        ranked.sort(key=lambda condition: -condition[0])
        del ranked[_SHOWN : max(_SHOWN, len(ranked) - _SHOWN)]

    def picture(self) -> np.ndarray | None:
        """Labelled grid of the best and worst conditions and their samples."""
        half = min(_SHOWN, len(self.best_and_worst) // 2)
        if not half:
            return None
        shown = self.best_and_worst[:half] + self.best_and_worst[-half:]
        rows = np.stack(
            [
                np.stack([image, *some[:_MOST_SAMPLES]])
                for _, image, some in shown
            ]
        )
        return image_grid.grid(
            rows,
            scale=max(1, round(_SIDE / rows.shape[2])),
            row_labels=[
                f"{'best' if row < half else 'worst'} {cosine:.3f}"
                for row, (cosine, _, _) in enumerate(shown)
            ],
            column_labels=["condition", *["sample"] * (rows.shape[1] - 1)],
        )


def encoder_embedder(
    generator: Generator, parameters: Flat, batch_size: int
) -> Embedder:
    """Embeds views by the run's own encoder, as the mean over the tokens."""
    return in_batches(
        lambda views: generator.embedding(parameters, views), batch_size
    )


def feature_embedder(extractor: Extractor, batch_size: int) -> Embedder:
    """Embeds images by the first tap of an extractor."""
    apply: Callable[..., Any] = extractor.apply
    if extractor.traced:
        apply = jax.jit(extractor.apply)

    def embed(images: np.ndarray) -> Any:
        prepared = extractor.prepare(images)
        return apply(extractor.parameters, prepared)[extractor.first]

    return in_batches(embed, batch_size)


def in_batches(embed: Callable[[np.ndarray], Any], size: int) -> Embedder:
    """Embeds `size` images at once, so that one program embeds them all."""

    def embed_all(images: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [
                np.asarray(embed(images[rows]))[:count]
                for rows, count in padded_batches(len(images), size)
            ]
        )

    return embed_all
