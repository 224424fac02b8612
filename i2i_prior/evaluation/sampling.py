"""Samples of a model for held-out images or prompts, chunk by chunk."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from i2i_prior.data.held_out import each_example
from i2i_prior.data.record import Source
from i2i_prior.errors import UserError
from i2i_prior.evaluation.prompts import Prompt
from i2i_prior.evaluation.sample_store import CHUNK, SampleStore
from i2i_prior.inference import text_to_image
from i2i_prior.inference.batches import padded_batches
from i2i_prior.inference.generator import Generator, Given, generate_for, repeat
from i2i_prior.inference.sample_options import SampleOptions
from i2i_prior.models.functional import Flat
from i2i_prior.tasks.inputs import cuts
from i2i_prior.tasks.resolve import resolve

Report = Callable[[int], Any]


@dataclass(frozen=True)
class SampleChunk:
    """Consecutive conditions and the samples that were drawn for them.

    Prompts have no images; a model without an encoder has no views.
    """

    samples: np.ndarray  # uint8 (n, K, S, S, 3)
    images: np.ndarray | None = None  # held out, uint8 (n, S, S, 3)
    views: np.ndarray | None = None  # of the encoder, uint8 (n, V, V, 3)

    @property
    def flat(self) -> np.ndarray:
        """Samples, uint8 (n K, S, S, 3)."""
        return self.samples.reshape(-1, *self.samples.shape[2:])


def sample_images(
    config: ConfigDict,
    source: Source,
    generator: Generator,
    parameters: Flat,
    store: SampleStore,
    report: Report = lambda _: None,
) -> Iterator[SampleChunk]:
    """Draws samples for held-out examples, see `held_out_examples`.

    Condition c has the samples c K to c K + K - 1, K = per_condition, and
    `report` is called with the number of samples so far. UserError where the
    source is unusable.
    """
    section, start = config.evaluate, 0
    each = section.per_condition
    if section.num_samples % each:
        raise UserError(
            f"{section.num_samples} samples do not divide into "
            f"{each} a condition; choose a multiple of {each}"
        )
    count, size = section.num_samples // each, max(1, CHUNK // each)

    def draw(given: Given, first: int) -> np.ndarray:
        return generate_for(
            generator,
            parameters,
            given,
            guidance=config.sample.guidance,
            options=SampleOptions.from_config(config.sample),
            seed=config.seed,
            batch_size=section.batch_size,
            first=first,
            progress=lambda done: report(first + done),
        )

    for example in held_out_examples(config, source, count, size):
        images = example.pop("image")
        views = example.pop("target_view", example.get("view"))
        given = repeat(example, each)
        samples = store.chunk(
            start, len(images) * each, partial(draw, given, start)
        )
        start += len(images) * each
        report(start)
        shape = len(images), each, *samples.shape[1:]
        yield SampleChunk(samples.reshape(shape), images, views)


def held_out_examples(
    config: ConfigDict, source: Source, count: int, size: int = CHUNK
) -> Iterator[Given]:
    """Fixed examples, `size` at a time, see `data.held_out.each_example`.

    Yields image uint8 (n, S, S, 3), the target, and the conditions of
    `Task.example_spec`: view, source_image, label, each (n, ...); of a pair
    also target_view, see `tasks.inputs.cuts`. UserError where the source is
    unusable.
    """
    shapes = resolve(config)
    examples = each_example(
        source,
        count,
        cuts(config, shapes),
        labels=shapes.dit.classes > 0,
        min_scale=config.data.min_scale,
    )
    while some := list(islice(examples, size)):
        yield {name: np.stack([one[name] for one in some]) for name in some[0]}


def sample_prompts(
    config: ConfigDict,
    prompts: Sequence[Prompt],
    text_encoder: Any,
    generator: Generator,
    parameters: Flat,
    store: SampleStore,
    report: Report = lambda _: None,
) -> Iterator[SampleChunk]:
    """Draws one sample of a text-conditioned model for each prompt.

    Arguments are as those of `sample_images`; the text encoder is that of
    `text_to_image.draw`. UserError where the model takes no captions.
    """
    captions = [prompt.caption for prompt in prompts]

    def draw(first: int, last: int) -> np.ndarray:
        parts = []
        size = config.evaluate.batch_size
        for rows, count in padded_batches(last - first, size):
            images = text_to_image.draw(
                generator,
                parameters,
                [captions[first + row] for row in rows],
                text_encoder,
                seed=config.seed,
                first=first + int(rows[0]),
                steps=config.sample.steps,
                guidance=config.sample.guidance,
                solver=config.sample.solver,
            )
            parts.append(images[:count])
            report(first + int(rows[0]) + count)
        return np.concatenate(parts)

    for first in range(0, len(captions), CHUNK):
        last = min(first + CHUNK, len(captions))
        samples = store.chunk(first, last - first, partial(draw, first, last))
        report(last)
        yield SampleChunk(samples[:, None])
