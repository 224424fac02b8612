"""Convolution, group norm and resampling, channels last."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from i2i_prior.errors import UserError
from i2i_prior.models.autoencoder_config import AutoencoderConfig
from i2i_prior.models.layers import normal
from i2i_prior.models.precision import Array, Precision


class Conv(nnx.Module):
    """2-D convolution with an odd square kernel; `padding` is zeros (before,
    after) on both axes, half the kernel on each side when None."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int = 3,
        *,
        rngs: nnx.Rngs,
        precision: Precision,
        stride: int = 1,
        padding: tuple[int, int] | None = None,
        bias: bool = True,
    ):
        init = normal(1 / math.sqrt(size * size * inputs))
        self.kernel = nnx.Param(
            init(rngs.params(), (size, size, inputs, outputs))
        )
        self.bias = nnx.Param(jnp.zeros((outputs,))) if bias else None
        self.stride = stride
        self.padding = padding or (size // 2, size // 2)
        self.precision = precision

    def __call__(self, x: Array) -> Array:
        """x (B, H, W, inputs) -> (B, H / stride, W / stride, outputs)."""
        operands = self.precision.operands
        exact = operands == jnp.float32
        y = jax.lax.conv_general_dilated(
            x.astype(operands),
            self.kernel[...].astype(operands),
            (self.stride, self.stride),
            (self.padding, self.padding),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=jax.lax.Precision.HIGHEST if exact else None,
        ).astype(jnp.float32)
        if self.bias is not None:
            y = y + self.bias[...]
        return y.astype(self.precision.activations)


class UpConv(Conv):
    """Twice the size by repeating pixels, then a convolution."""

    def __call__(self, x: Array) -> Array:
        """x (B, H, W, inputs) -> (B, 2H, 2W, outputs)."""
        return super().__call__(x.repeat(2, axis=1).repeat(2, axis=2))


class GroupNorm(nnx.Module):
    """GroupNorm (arXiv 1803.08494) with gain and bias, in float32, of equal
    groups of neighbouring channels."""

    def __init__(self, channels: int, groups: int, epsilon: float = 1e-6):
        self.gain = nnx.Param(jnp.ones((channels,)))
        self.bias = nnx.Param(jnp.zeros((channels,)))
        self.groups = groups
        self.epsilon = epsilon

    def __call__(self, x: Array) -> Array:
        """x (B, H, W, channels) -> float32 of the same shape."""
        split = x.astype(jnp.float32).reshape(
            x.shape[0], -1, self.groups, x.shape[-1] // self.groups
        )
        centred = split - split.mean((1, 3), keepdims=True)
        variance = jnp.square(centred).mean((1, 3), keepdims=True)
        normed = centred * jax.lax.rsqrt(variance + self.epsilon)
        return normed.reshape(x.shape) * self.gain[...] + self.bias[...]


class Autoencoder(nnx.Module):
    """What all autoencoders share: sizes of images, scale of latents."""

    def __init__(self, config: AutoencoderConfig, encoder: Any, decoder: Any):
        self.encoder = encoder
        self.decoder = decoder
        self.config = config

    def _check(self, images: Array, multiple: int) -> None:
        """Raises UserError for images with sides that are no multiples."""
        _, height, width, channels = images.shape
        if channels != 3 or height % multiple or width % multiple:
            raise UserError(
                f"the autoencoder takes (B, H, W, 3) with sides that are "
                f"multiples of {multiple}, not {tuple(images.shape)}; crop or "
                "resize the images"
            )

    def _normalise(self, z: Array) -> Array:
        shift, scale = map(jnp.asarray, (self.config.shift, self.config.scale))
        return (z - shift) * scale

    def _restore(self, latents: Array) -> Array:
        """Inverse of `_normalise`, float32."""
        scale, shift = map(jnp.asarray, (self.config.scale, self.config.shift))
        return latents.astype(jnp.float32) / scale + shift
