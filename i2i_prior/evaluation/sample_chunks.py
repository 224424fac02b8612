"""What an evaluation looks at, chunk by chunk: conditions and their samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from i2i_prior.data.held_out import each_crop
from i2i_prior.data.sources import Source
from i2i_prior.errors import UserError
from i2i_prior.evaluation.prompts import Prompt, prompt_hash
from i2i_prior.evaluation.sample_store import (
    CHUNK,
    Samples,
)
from i2i_prior.inference.generator import (
    Generator,
    SampleOptions,
    generate_for,
)
from i2i_prior.models.functional import Flat
from i2i_prior.tasks.resolve import resolve

Done = Callable[[int], Any]  # called with the number of samples so far


@dataclass(frozen=True)
class Chunk:
    """Some conditions, in their order, and what was drawn for them.

    Attributes:
      samples: uint8 (n, K, S, S, 3).
      images: uint8 (n, S, S, 3), the conditions; None for prompts.
      views: uint8 (n, V, V, 3), what the encoder sees of them; likewise.
    """

    samples: np.ndarray
    images: np.ndarray | None = None
    views: np.ndarray | None = None


def of_images(
    config: Any,
    generator: Generator,
    parameters: Flat,
    source: Source,
    samples: Samples,
    done: Done = lambda _: None,
) -> Iterator[Chunk]:
    """Samples for held-out crops; see `held_out`.

    Condition c has the samples c K to c K + K - 1, K = per_condition.

    Args:
      config: a run's; the `evaluate` and `sample` sections count.
      generator, parameters: the model.
      source: held-out images.
      samples: where those lie that are drawn already.
      done: see `Done`.

    Raises:
      UserError: where the source is unusable.
    """
    section, start = config.evaluate, 0
    each = section.per_condition
    if section.num_samples % each:
        raise UserError(
            f"{section.num_samples} samples do not divide into "
            f"{each} a condition; choose a multiple of {each}"
        )
    count, size = section.num_samples // each, max(1, CHUNK // each)
    for images, views in held_out(config, source, count, size):
        wanted = np.repeat(views, each, axis=0)

        def draw(first: int = start, wanted: np.ndarray = wanted) -> np.ndarray:
            return generate_for(
                generator,
                parameters,
                wanted,
                guidance=config.sample.guidance,
                options=SampleOptions.from_config(config.sample),
                seed=config.seed,
                batch_size=config.evaluate.batch_size,
                first=first,
                progress=lambda count: done(first + count),
            )

        drawn = samples.chunk(start, len(wanted), draw)
        start += len(wanted)
        done(start)
        shape = len(images), each, *drawn.shape[1:]
        yield Chunk(drawn.reshape(shape), images, views)


def held_out(
    config: Any, source: Source, count: int, size: int = CHUNK
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Fixed crops, and what the encoder sees of them, `size` at a time.

    Args:
      config: a run's.
      source: held-out images.
      count: crops in all.
      size: crops at once.

    Yields:
      images uint8 (n, S, S, 3), views uint8 (n, V, V, 3) of the same boxes.

    Raises:
      UserError: where the source is unusable.
    """
    shapes = resolve(config)
    sides = list(dict.fromkeys((shapes.image_size, shapes.view_size)))
    crops = each_crop(
        source, count, sides, seed=0, min_scale=config.data.min_scale
    )
    while some := list(islice(crops, size)):
        columns = [np.stack(column) for column in zip(*some, strict=True)]
        yield columns[0], columns[-1]


def of_prompts(
    config: Any,
    prior: Any,
    prompts: Sequence[Prompt],
    text_encoder: Any,
    samples: Samples,
    done: Done = lambda _: None,
) -> Iterator[Chunk]:
    """Samples of a text-conditioned prior, one for each prompt.

    Args:
      config: as `of_images`.
      prior: `Prior`, of the same run.
      prompts: what to draw.
      text_encoder: see `text_to_image.draw`.
      samples, done: as `of_images`.

    Raises:
      UserError: where the model takes no captions.
    """
    from i2i_prior.inference.text_to_image import draw

    size = config.evaluate.batch_size
    captions = [prompt.caption for prompt in prompts]

    def drawn(first: int, last: int) -> np.ndarray:
        parts = []
        for start in range(first, last, size):
            stop = min(start + size, last)
            # The last batch repeats its last caption, to keep the shape.
            rows = [min(row, stop - 1) for row in range(start, start + size)]
            images = draw(
                prior,
                [captions[row] for row in rows],
                text_encoder,
                seed=config.seed,
                first=start,
                steps=config.sample.steps,
                guidance=config.sample.guidance,
                solver=config.sample.solver,
            )
            parts.append(images[: stop - start])
            done(stop)
        return np.concatenate(parts)

    for first in range(0, len(captions), CHUNK):
        last = min(first + CHUNK, len(captions))
        draw_these = partial(drawn, first, last)
        images = samples.chunk(first, last - first, draw_these)
        done(last)
        yield Chunk(images[:, None])


def settings(
    config: Any,
    step: int,
    checkpoint: str,
    conditions: dict[str, Any],
    truncate: bool = False,
) -> dict[str, Any]:
    """What shapes the samples, as plain values: see `sampling_run.Samples`.

    Args:
      config: of the run, as it is used.
      step: of the checkpoint.
      checkpoint: tells it from others of this step.
      conditions: `of_source` or `of_list`.
      truncate: see `Generator`.
    """
    return {
        "step": step,
        "checkpoint": checkpoint,
        "conditions": conditions,
        "per_condition": config.evaluate.per_condition,
        "num_samples": config.evaluate.num_samples,
        "seed": config.seed,
        "truncate": truncate,
        "sample": {
            name: value
            for name, value in config.sample.items()
            if name not in ("conditions", "variations")
        },
    }


def of_source(config: Any, source: Source) -> dict[str, Any]:
    """Names the held-out images."""
    return {
        "source": config.data.held_out or config.data.source,
        "fingerprint": source.fingerprint(),
    }


def of_list(prompts: Sequence[Prompt], encoder_hash: str) -> dict[str, Any]:
    """Names the prompts, and what reads them."""
    return {
        "prompts_sha256": prompt_hash(prompts),
        "text_encoder_sha256": encoder_hash,
    }
