"""Analytic FLOPs.

XLA's own count sees the body of a scan once, so it cannot be used. One
multiply-add is 2 FLOPs; see `parts` for what is counted.
"""

from __future__ import annotations

from i2i_prior.flops.autoencoder_parts import autoencoder_parts
from i2i_prior.flops.dit_parts import (
    conditioner_parts,
    dit_parts,
)
from i2i_prior.flops.encoder_parts import (
    text_parts,
    vit_parts,
)
from i2i_prior.flops.parts import total
from i2i_prior.models.autoencoder import (
    Pixels,
)
from i2i_prior.models.autoencoder_config import (
    AutoencoderConfig,
)
from i2i_prior.models.conditioner import ConditionerConfig
from i2i_prior.models.dit_config import DiTConfig
from i2i_prior.models.encoder_families import ViTConfig
from i2i_prior.models.text_clip import ClipTextConfig
from i2i_prior.models.text_t5 import T5Config


def dit_macs(config: DiTConfig, condition_tokens: int) -> int:
    """Multiply-adds of one forward pass of the DiT on one example.

    Lumos-XL/2 at 256 px with one token: 137.6e9, or 118.6e9 on the fast
    path (arXiv 2412.07767, official source, counted).

    Args:
      config: the DiT; `one_token` takes the fast path.
      condition_tokens: M, 0 for none.
    """
    return total(dit_parts(config, condition_tokens).values()).macs


def conditioner_macs(config: ConditionerConfig) -> int:
    """Multiply-adds of expansion and projection for one example."""
    return total(conditioner_parts(config).values()).macs


def vit_macs(config: ViTConfig, image_size: int = 0) -> int:
    """Multiply-adds of one forward pass of an encoder on one image.

    Args:
      config: its shape.
      image_size: side in pixels, where it is not the config's.
    """
    return total(vit_parts(config, image_size).values()).macs


def text_macs(config: T5Config | ClipTextConfig, length: int) -> int:
    """Multiply-adds of encoding one caption, padded to `length` tokens."""
    return total(text_parts(config, length).values()).macs


def encode_macs(config: AutoencoderConfig | Pixels, image_size: int) -> int:
    """Multiply-adds of encoding one image to its latent.

    Args:
      config: the latent space; none for pixels.
      image_size: side in pixels, a multiple of the factor.
    """
    return _autoencoder_macs(config, image_size, "encoder")


def decode_macs(config: AutoencoderConfig | Pixels, image_size: int) -> int:
    """Multiply-adds of decoding a latent to an image of this size."""
    return _autoencoder_macs(config, image_size, "decoder")


def _autoencoder_macs(
    config: AutoencoderConfig | Pixels, image_size: int, half: str
) -> int:
    if isinstance(config, Pixels):
        return 0
    return autoencoder_parts(config, image_size)[half].macs


def training_flops(forward_macs: int, frozen_macs: int = 0) -> int:
    """FLOPs of forward and backward on one example.

    A trained layer costs three forward passes (its own, and two products in
    the backward pass), a frozen one costs one. Recomputation under remat is
    not counted: it is not useful work.
    """
    return 2 * (3 * forward_macs + frozen_macs)
