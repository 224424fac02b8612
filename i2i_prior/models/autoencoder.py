"""Latent spaces: images in [-1, 1] to latents and back."""

from __future__ import annotations

from dataclasses import dataclass

from i2i_prior.models.layers import Array


@dataclass(frozen=True)
class Pixels:
    """The identity: the latent is the image.

    Attributes:
      channels: latent channels.
      factor: image pixels a latent pixel, a side.
    """

    channels: int = 3
    factor: int = 1

    def encode(self, images: Array) -> Array:
        """images (B, H, W, 3) in [-1, 1] -> the same."""
        return images

    def decode(self, latents: Array) -> Array:
        """latents (B, H, W, 3) -> images, not clipped."""
        return latents


AUTOENCODERS = {"pixels": Pixels}
