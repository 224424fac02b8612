"""Text-to-image sampling of a text-conditioned model, as Lumos does it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from i2i_prior.data.aspect_ratios import SAMPLING, nearest
from i2i_prior.data.captions import clean_captions
from i2i_prior.errors import UserError
from i2i_prior.inference.generator import Generator, draw_noise
from i2i_prior.models.functional import Flat


def draw(
    generator: Generator,
    parameters: Flat,
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
    masked; a multi-scale model draws at the size of its table with the
    nearest ratio, and is conditioned on that size and ratio.

    Args:
      generator, parameters: of a model of tokens, with an autoencoder.
      text_encoder: what `load_encoder` makes of a T5, with its tokenizer.
      height, width: wanted, in pixels, None for the model's own square; a
        multi-scale model takes their ratio only.
      seed, first: image k draws from (seed, first + k).
      **options: steps, guidance, solver, null_mask, ... of `Prior.sample`.

    Raises:
      UserError: where the model takes no captions, or the size does not fit.
    """
    config, latent = generator.task.config, generator.task.shapes.latent
    if config.conditioner.tokens_from != "tokens":
        raise UserError(
            "this model is conditioned on images or labels, not on captions; "
            "load one with text tokens"
        )
    count, side = len(captions), config.data.image_size
    if not count:
        raise UserError("give one caption or more")
    size = (height or side, width or side)
    conditions: dict[str, Any] = {}
    if config.model.size_conditions:
        if side not in SAMPLING:
            raise UserError(
                f"a multi-scale model of {side} pixels has no table of sizes; "
                f"they are known for {', '.join(map(str, SAMPLING))}"
            )
        ratio, size = nearest(*size, SAMPLING[side])
        conditions["size"] = np.tile(np.asarray(size, np.float32), (count, 1))
        conditions["aspect"] = np.full((count, 1), ratio, np.float32)
    multiple = latent.factor * config.model.patch
    if size[0] % multiple or size[1] % multiple:
        raise UserError(
            f"an image of {size[0]} x {size[1]} does not split into patches; "
            f"choose multiples of {multiple}"
        )
    texts = clean_captions(captions) if clean else list(captions)
    tokens, mask = text_encoder.encode(texts, length=config.conditioner.length)
    shape = *(pixels // latent.factor for pixels in size), latent.channels
    latents = generator.sample(
        parameters,
        draw_noise(seed, range(first, first + count), shape),
        tokens=tokens,
        mask=mask,
        **conditions,
        **options,
    )
    return generator.decode(parameters, latents)
