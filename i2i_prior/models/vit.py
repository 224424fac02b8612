"""Image encoders: a pre-norm vision transformer with a CLS token."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from i2i_prior.errors import UserError
from i2i_prior.models.attention import SelfAttention
from i2i_prior.models.dit import patchify, scan_blocks, stack_blocks
from i2i_prior.models.layers import (
    PRECISIONS,
    Array,
    Linear,
    Mlp,
    Precision,
    layer_norm,
    normal,
)


class Features(NamedTuple):
    """What an encoder says of an image.

    Attributes:
      cls: (B, D), after the last norm.
      patches: (B, N, D), after the last norm, row-major.
    """

    cls: Array
    patches: Array


@dataclass(frozen=True)
class ViTConfig:
    """Shape of an encoder; the defaults are DINO v1 ViT-B/16."""

    depth: int = 12
    width: int = 768
    heads: int = 12
    patch: int = 16
    image_size: int = 224
    mlp_ratio: float = 4.0
    precision: str = "float32"


class LayerNorm(nnx.Module):
    """LayerNorm with gain and bias, in float32."""

    def __init__(self, width: int):
        self.gain = nnx.Param(jnp.ones((width,)))
        self.bias = nnx.Param(jnp.zeros((width,)))

    def __call__(self, x: Array) -> Array:
        """x (..., width) -> float32 (..., width)."""
        return layer_norm(x) * self.gain[...] + self.bias[...]


class EncoderBlock(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); exact GELU."""

    def __init__(
        self,
        config: ViTConfig,
        precision: Precision,
        *,
        rngs: nnx.Rngs,
    ):
        width = config.width
        options: dict[str, Any] = {"rngs": rngs, "precision": precision}
        self.norm1 = LayerNorm(width)
        self.attention = SelfAttention(width, config.heads, **options)
        self.norm2 = LayerNorm(width)
        self.mlp = Mlp(
            width,
            int(config.mlp_ratio * width),
            width,
            activation=functools.partial(jax.nn.gelu, approximate=False),
            **options,
        )

    def __call__(self, h: Array) -> Array:
        """h (B, N, D) -> (B, N, D)."""
        h = h + self.attention(self.norm1(h).astype(h.dtype))
        return h + self.mlp(self.norm2(h).astype(h.dtype))


class ViT(nnx.Module):
    """Vision transformer (arXiv 2010.11929) as DINO v1 has it.

    Raises:
      UserError: where the patch does not divide the image or the heads do
        not divide the width.
    """

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        if config.image_size % config.patch or config.width % config.heads:
            raise UserError(
                f"encoder: patches of {config.patch} must divide the image "
                f"of {config.image_size}, {config.heads} heads the width "
                f"{config.width}"
            )
        precision = PRECISIONS[config.precision]
        tokens = (config.image_size // config.patch) ** 2
        self.patch_embed = Linear(
            3 * config.patch**2, config.width, rngs=rngs, precision=precision
        )
        small = normal(0.02)
        self.cls = nnx.Param(small(rngs.params(), (1, 1, config.width)))
        self.positions = nnx.Param(
            small(rngs.params(), (1, tokens + 1, config.width))
        )
        self.blocks = stack_blocks(
            lambda rngs: EncoderBlock(config, precision, rngs=rngs),
            config.depth,
            rngs,
        )
        self.norm = LayerNorm(config.width)
        self.config = config

    def __call__(self, pixels: Array) -> Features:
        """pixels float (B, S, S, 3), normalised -> `Features`, float32."""
        precision = PRECISIONS[self.config.precision]
        h = self.patch_embed(patchify(pixels, self.config.patch))
        cls = jnp.broadcast_to(self.cls[...], (h.shape[0], 1, h.shape[-1]))
        h = jnp.concatenate([cls.astype(h.dtype), h], axis=1)
        h = (h + self.positions[...]).astype(precision.activations)
        h = scan_blocks(self.blocks, lambda h, block: block(h), h, "none", 1)
        h = self.norm(h)
        return Features(cls=h[:, 0], patches=h[:, 1:])
