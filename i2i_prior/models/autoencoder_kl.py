"""KL autoencoder of latent diffusion (arXiv 2112.10752) up to FLUX.2.

Layer for layer what diffusers' AutoencoderKL and AutoencoderKLFlux2 compute.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from i2i_prior.models.attention import attend
from i2i_prior.models.autoencoder_config import AutoencoderConfig
from i2i_prior.models.autoencoder_layers import (
    Autoencoder,
    Conv,
    GroupNorm,
    UpConv,
)
from i2i_prior.models.layers import Linear
from i2i_prior.models.precision import Array


class ResidualBlock(nnx.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), x by 1x1 at new widths."""

    def __init__(self, inputs: int, outputs: int, groups: int, **options: Any):
        self.norm1 = GroupNorm(inputs, groups)
        self.conv1 = Conv(inputs, outputs, **options)
        self.norm2 = GroupNorm(outputs, groups)
        self.conv2 = Conv(outputs, outputs, **options)
        same = inputs == outputs
        self.shortcut = None if same else Conv(inputs, outputs, 1, **options)

    def __call__(self, x: Array) -> Array:
        """x (B, H, W, inputs) -> (B, H, W, outputs)."""
        h = self.conv1(jax.nn.silu(self.norm1(x)))
        h = self.conv2(jax.nn.silu(self.norm2(h)))
        return h + (x if self.shortcut is None else self.shortcut(x))


class AttentionBlock(nnx.Module):
    """x + attention(norm(x)) over all pixels, one head."""

    def __init__(self, width: int, groups: int, **options: Any):
        self.norm = GroupNorm(width, groups)
        self.q = Linear(width, width, **options)
        self.k = Linear(width, width, **options)
        self.v = Linear(width, width, **options)
        self.out = Linear(width, width, **options)
        self.precision = options["precision"]

    def __call__(self, x: Array) -> Array:
        """x (B, H, W, width) -> the same shape."""
        batch, _, _, width = x.shape
        h = self.norm(x).reshape(batch, -1, 1, width)
        h = attend(self.q(h), self.k(h), self.v(h), precision=self.precision)
        return x + self.out(h).reshape(x.shape)


class Middle(nnx.Module):
    """Residual block, attention, residual block."""

    def __init__(self, width: int, groups: int, **options: Any):
        self.first = ResidualBlock(width, width, groups, **options)
        self.attention = AttentionBlock(width, groups, **options)
        self.last = ResidualBlock(width, width, groups, **options)

    def __call__(self, x: Array) -> Array:
        """x (B, H, W, width) -> the same shape."""
        return self.last(self.attention(self.first(x)))


class Level(nnx.Module):
    """Residual blocks, then the resampling to the next level, if any."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        blocks: int,
        groups: int,
        resample: Conv | None,
        **options: Any,
    ):
        self.blocks = nnx.List(
            ResidualBlock(outputs if i else inputs, outputs, groups, **options)
            for i in range(blocks)
        )
        self.resample = resample

    def __call__(self, x: Array) -> Array:
        """x (B, H, W, inputs) -> (B, H', W', outputs)."""
        for block in self.blocks:
            x = block(x)
        return x if self.resample is None else self.resample(x)


def _levels(
    widths: tuple[int, ...],
    blocks: Iterable[int],
    resample: Callable[[int], Conv],
    groups: int,
    **options: Any,
) -> nnx.List:
    """Levels of these widths, with a resampling behind all but the last."""
    inputs, levels = widths[0], nnx.List[Level]()
    for i, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        between = resample(width) if i + 1 < len(widths) else None
        levels.append(Level(inputs, width, count, groups, between, **options))
        inputs = width
    return levels


class Encoder(nnx.Module):
    """Images to the moments of a Gaussian."""

    def __init__(self, config: AutoencoderConfig, **options: Any):
        widths, groups = config.widths, config.groups

        def down(width: int) -> Conv:
            # Zeros below and to the right only, as in latent diffusion.
            return Conv(width, width, stride=2, padding=(0, 1), **options)

        self.conv_in = Conv(3, widths[0], **options)
        self.levels = _levels(widths, config.blocks, down, groups, **options)
        self.mid = Middle(widths[-1], groups, **options)
        self.norm_out = GroupNorm(widths[-1], groups)
        self.conv_out = Conv(widths[-1], 2 * config.channels, **options)

    def __call__(self, images: Array) -> Array:
        """images (B, H, W, 3) -> (B, H / f, W / f, 2 channels)."""
        h = self.conv_in(images)
        for level in self.levels:
            h = level(h)
        return self.conv_out(jax.nn.silu(self.norm_out(self.mid(h))))


class Decoder(nnx.Module):
    """Latents to images; its levels count from the latent."""

    def __init__(self, config: AutoencoderConfig, **options: Any):
        groups = config.groups
        widths = (config.decoder_widths or config.widths)[::-1]
        blocks = [count + 1 for count in config.blocks[::-1]]

        def up(width: int) -> Conv:
            return UpConv(width, width, **options)

        self.conv_in = Conv(config.channels, widths[0], **options)
        self.mid = Middle(widths[0], groups, **options)
        self.levels = _levels(widths, blocks, up, groups, **options)
        self.norm_out = GroupNorm(widths[-1], groups)
        self.conv_out = Conv(widths[-1], 3, **options)

    def __call__(self, latents: Array) -> Array:
        """latents (B, h, w, channels) -> (B, f h, f w, 3)."""
        h = self.mid(self.conv_in(latents))
        for level in self.levels:
            h = level(h)
        return self.conv_out(jax.nn.silu(self.norm_out(h)))


class Statistics(nnx.Module):
    """Mean and variance of latents in 2x2 patches (FLUX.2).

    There, a batch norm in evaluation mode over channels (c, row, column) of
    the patches. Here the same numbers are laid over the latents as they are,
    so that latents stay (B, h, w, c) and any patch size may follow.
    """

    def __init__(self, channels: int, epsilon: float):
        self.mean = nnx.BatchStat(jnp.zeros((4 * channels,)))
        self.variance = nnx.BatchStat(jnp.ones((4 * channels,)))
        self.epsilon = epsilon

    def __call__(self, height: int, width: int) -> tuple[Array, Array]:
        """Mean and standard deviation, both (height, width, channels)."""

        def lay(values: Array) -> Array:
            patch = rearrange(values, "(c p q) -> p q c", p=2, q=2)
            return jnp.tile(patch, (height // 2, width // 2, 1))

        deviation = jnp.sqrt(self.variance[...] + self.epsilon)
        return lay(self.mean[...]), lay(deviation)


class AutoencoderKL(Autoencoder):
    """Images in [-1, 1] to Gaussian latents and back."""

    def __init__(self, config: AutoencoderConfig, **options: Any):
        encoder = Encoder(config, **options)
        super().__init__(config, encoder, Decoder(config, **options))

        def pointwise(width: int) -> Conv | None:
            exists = config.quant_conv
            return Conv(width, width, 1, **options) if exists else None

        self.quant_conv = pointwise(2 * config.channels)
        self.post_quant_conv = pointwise(config.channels)
        epsilon = config.batch_norm
        self.statistics = (
            Statistics(config.channels, epsilon) if epsilon else None
        )

    @jax.named_scope("autoencoder/encoder")
    def moments(self, images: Array) -> tuple[Array, Array]:
        """images (B, H, W, 3) in [-1, 1] -> the Gaussian of each latent.

        Its mean and log variance, clipped to [-30, 20], before any
        normalisation, are float32 (B, H / f, W / f, channels). UserError where
        a side is not whole latents (2x2 patches of them with batch-norm
        statistics).
        """
        patch = 1 if self.statistics is None else 2
        self._check(images, self.config.factor * patch)
        h = self.encoder(images)
        if self.quant_conv is not None:
            h = self.quant_conv(h)
        mean, log_variance = jnp.split(h.astype(jnp.float32), 2, axis=-1)
        return mean, jnp.clip(log_variance, -30.0, 20.0)

    def gaussian(self, images: Array) -> tuple[Array, Array]:
        """`moments` of the normalised latent: what `sample` draws from."""
        mean, log_variance = self.moments(images)
        _, deviation = self._statistics(mean)
        factor = jnp.asarray(self.config.scale) / deviation
        return self._normalise(mean), log_variance + 2 * jnp.log(factor)

    def encode(self, images: Array) -> Array:
        """images (B, H, W, 3) in [-1, 1] -> the mean, normalised, float32
        (B, H / f, W / f, channels)."""
        return self._normalise(self.moments(images)[0])

    def sample(self, images: Array, key: Array) -> Array:
        """images (B, H, W, 3) -> a draw from their Gaussians, normalised;
        `key` may be standard normal noise of the latents' shape."""
        mean, log_variance = self.moments(images)
        noise = key
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            noise = jax.random.normal(key, mean.shape)
        return self._normalise(mean + jnp.exp(0.5 * log_variance) * noise)

    @jax.named_scope("autoencoder/decoder")
    def decode(self, latents: Array) -> Array:
        """Latents (B, h, w, channels) -> images (B, f h, f w, 3), float32,
        about [-1, 1], not clipped."""
        z = self._restore(latents)
        mean, deviation = self._statistics(z)
        z = z * deviation + mean
        if self.post_quant_conv is not None:
            z = self.post_quant_conv(z)
        return self.decoder(z).astype(jnp.float32)

    def _normalise(self, z: Array) -> Array:
        mean, deviation = self._statistics(z)
        return super()._normalise((z - mean) / deviation)

    def _statistics(self, z: Array) -> tuple[Array | float, Array | float]:
        if self.statistics is None:
            return 0.0, 1.0
        return self.statistics(*z.shape[1:3])
