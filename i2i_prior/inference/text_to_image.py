"""From captions to images with a text-conditioned prior, as Lumos does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from i2i_prior.data.aspect_ratios import SAMPLING, nearest
from i2i_prior.data.captions import clean_captions
from i2i_prior.errors import UserError
from i2i_prior.inference.generator import draw_noise
from i2i_prior.inference.prior import Prior


def draw(
    prior: Prior,
    captions: Sequence[str],
    text_encoder: Any,
    *,
    height: int | None = None,
    width: int | None = None,
    seed: int = 0,
    first: int = 0,
    clean: bool = True,
    **options: Any,
) -> np.ndarray:
    """Images of captions, uint8 (len(captions), H, W, 3).

    The official text-to-image inference of Lumos (released code of arXiv
    2412.07767): captions cleaned twice, padded to the model's length and
    masked; a multi-scale model draws at the size of its table whose ratio is
    nearest, and is told that size and ratio.

    Args:
      prior: with conditions of tokens, and an autoencoder.
      captions: texts.
      text_encoder: what `load_encoder` makes of a T5, with its tokenizer.
      height, width: wanted, in pixels; a multi-scale model takes their ratio
        only, another one the whole size. None for the model's own square.
      seed: image k draws from (seed, first + k).
      first: number of the first image, where captions come in batches.
      clean: whether captions are cleaned first.
      **options: steps, guidance, solver, null_mask, ... of `Prior.sample`.

    Raises:
      UserError: where the model takes no captions, or the size does not fit
        it.
    """
    config = prior.config
    if config.conditioner.tokens_from != "tokens":
        raise UserError(
            "this model is conditioned on images or labels, not on captions; "
            "load one with text tokens"
        )
    if not len(captions):
        raise UserError("give one caption or more")
    side = config.data.image_size
    size = (height or side, width or side)
    conditions: dict[str, Any] = {}
    if config.model.size_conditions:
        ratio, size = _table_size(side, size)
        count = len(captions)
        conditions["size"] = np.tile(np.asarray(size, np.float32), (count, 1))
        conditions["aspect"] = np.full((count, 1), ratio, np.float32)
    step = prior.task.shapes.latent.factor * config.model.patch
    if size[0] % step or size[1] % step:
        raise UserError(
            f"an image of {size[0]} x {size[1]} does not split into patches; "
            f"choose multiples of {step}"
        )
    texts = clean_captions(captions) if clean else list(captions)
    length = config.conditioner.length
    tokens, mask = text_encoder.encode(texts, length=length)
    factor, channels = (
        prior.task.shapes.latent.factor,
        prior.task.shapes.latent.channels,
    )
    shape = (size[0] // factor, size[1] // factor, channels)
    latents = prior.sample(
        draw_noise(seed, range(first, first + len(texts)), shape),
        tokens=tokens,
        mask=mask,
        **conditions,
        **options,
    )
    return prior.decode(latents)


def _table_size(
    side: int, wanted: tuple[int, int]
) -> tuple[float, tuple[int, int]]:
    if side not in SAMPLING:
        raise UserError(
            f"a multi-scale model of {side} pixels has no table of sizes; "
            f"they are known for {', '.join(map(str, SAMPLING))}"
        )
    return nearest(*wanted, SAMPLING[side])
