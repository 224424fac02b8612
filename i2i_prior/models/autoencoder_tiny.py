"""Tiny autoencoders: TAESD, TAESDXL, TAESD3, TAEF1, TAEF2.

Distilled from the large ones into their normalised latent spaces; layer for
layer what github.com/madebyollin/taesd and diffusers' AutoencoderTiny compute.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from i2i_prior.models.autoencoder_config import AutoencoderConfig
from i2i_prior.models.autoencoder_layers import (
    Autoencoder,
    Conv,
    GroupNorm,
    UpConv,
)
from i2i_prior.models.precision import Array


class Pool(nnx.Module):
    """Branch of 1x1 convolutions around a group norm.

    The norm averages over the whole image: nothing else here does.
    """

    def __init__(self, width: int, groups: int, **options: Any):
        self.wide = Conv(width, 4 * width, 1, bias=False, **options)
        self.norm = GroupNorm(4 * width, groups, epsilon=1e-5)
        self.narrow = Conv(4 * width, width, 1, bias=False, **options)

    def __call__(self, x: Array) -> Array:
        """x (B, H, W, width) -> the same shape."""
        return self.narrow(jax.nn.relu(self.norm(self.wide(x))))


class TinyBlock(nnx.Module):
    """relu(x + three convolutions of x)."""

    def __init__(self, width: int, groups: int, pooled: bool, **options: Any):
        self.pool = Pool(width, groups, **options) if pooled else None
        self.conv1 = Conv(width, width, **options)
        self.conv2 = Conv(width, width, **options)
        self.conv3 = Conv(width, width, **options)

    def __call__(self, x: Array) -> Array:
        """x (B, H, W, width) -> the same shape."""
        if self.pool is not None:
            x = x + self.pool(x)
        h = jax.nn.relu(self.conv1(x))
        h = jax.nn.relu(self.conv2(h))
        return jax.nn.relu(x + self.conv3(h))


class TinyLevel(nnx.Module):
    """Blocks of one width."""

    def __init__(
        self, config: AutoencoderConfig, width: int, i: int, **options: Any
    ):
        pooled = config.pooled and i == len(config.widths) - 1
        self.blocks = nnx.List(
            TinyBlock(width, config.groups, pooled, **options)
            for _ in range(config.blocks[i])
        )

    def __call__(self, x: Array) -> Array:
        """x (B, H, W, width) -> the same shape."""
        for block in self.blocks:
            x = block(x)
        return x


class TinyEncoder(nnx.Module):
    """Images in [0, 1] to latents."""

    def __init__(self, config: AutoencoderConfig, **options: Any):
        width, levels = config.widths[0], range(len(config.widths))
        self.conv_in = Conv(3, width, **options)
        self.levels = nnx.List(
            TinyLevel(config, width, i, **options) for i in levels
        )
        self.downs = nnx.List(
            Conv(width, width, stride=2, bias=False, **options)
            for _ in levels[1:]
        )
        self.conv_out = Conv(width, config.channels, **options)

    def __call__(self, images: Array) -> Array:
        """images (B, H, W, 3) -> (B, H / f, W / f, channels)."""
        h = self.levels[0](self.conv_in(images))
        for down, level in zip(self.downs, self.levels[1:], strict=True):
            h = level(down(h))
        return self.conv_out(h)


class TinyDecoder(nnx.Module):
    """Latents to images in [0, 1]; its levels count from the latent."""

    def __init__(self, config: AutoencoderConfig, **options: Any):
        width = (config.decoder_widths or config.widths)[0]
        levels = range(len(config.widths))
        self.conv_in = Conv(config.channels, width, **options)
        self.levels = nnx.List(
            TinyLevel(config, width, i, **options) for i in levels[::-1]
        )
        self.ups = nnx.List(
            UpConv(width, width, bias=False, **options) for _ in levels[1:]
        )
        self.conv_out = Conv(width, 3, **options)

    def __call__(self, latents: Array) -> Array:
        """latents (B, h, w, channels) -> (B, f h, f w, 3)."""
        # Smoothly to [-3, 3], where it was trained.
        h = 3 * jnp.tanh(latents / 3)
        h = self.levels[0](jax.nn.relu(self.conv_in(h)))
        for up, level in zip(self.ups, self.levels[1:], strict=True):
            h = level(up(h))
        return self.conv_out(h)


class AutoencoderTiny(Autoencoder):
    """Images in [-1, 1] to latents and back, without a Gaussian."""

    def __init__(self, config: AutoencoderConfig, **options: Any):
        encoder = TinyEncoder(config, **options)
        super().__init__(config, encoder, TinyDecoder(config, **options))

    @jax.named_scope("autoencoder/encoder")
    def encode(self, images: Array) -> Array:
        """images (B, H, W, 3) in [-1, 1] -> normalised latents, float32
        (B, H / f, W / f, channels); UserError for sides of no whole latents."""
        self._check(images, self.config.factor)
        z = self.encoder((images + 1) / 2).astype(jnp.float32)
        return self._normalise(z)

    def sample(self, images: Array, key: Array) -> Array:
        """Latents of `encode`, which are no Gaussian; the key is not used."""
        return self.encode(images)

    @jax.named_scope("autoencoder/decoder")
    def decode(self, latents: Array) -> Array:
        """Latents (B, h, w, channels) -> images (B, f h, f w, 3), float32,
        about [-1, 1], not clipped."""
        z = self._restore(latents)
        return self.decoder(z).astype(jnp.float32) * 2 - 1
