"""Image encoders: one vision transformer for all `encoder_families`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from i2i_prior.errors import UserError
from i2i_prior.models.attention import CrossAttention, SelfAttention
from i2i_prior.models.encoder_families import (
    ACTIVATIONS,
    FAMILIES,
    Family,
    Features,
    ViTConfig,
    check,
)
from i2i_prior.models.layers import (
    LayerNorm,
    Linear,
    Mlp,
    PreNormBlock,
    SwiGlu,
    normal,
)
from i2i_prior.models.precision import PRECISIONS, Array
from i2i_prior.models.resample import bicubic_matrix
from i2i_prior.models.scan import patchify, scan_blocks, stack_blocks

__all__ = ["FAMILIES", "Features", "ViT", "ViTConfig"]


def _mlp(config: ViTConfig, **options: Any) -> nnx.Module:
    activation = ACTIVATIONS[FAMILIES[config.family].activation]
    width, hidden = config.width, config.hidden
    return Mlp(width, hidden, width, activation=activation, **options)


def _norm(config: ViTConfig) -> LayerNorm:
    epsilon = config.epsilon or FAMILIES[config.family].epsilon
    return LayerNorm(config.width, epsilon)


def _block(config: ViTConfig, **options: Any) -> PreNormBlock:
    width = config.width
    attention = SelfAttention(width, config.heads, **options)
    mlp = (
        SwiGlu(width, config.hidden, bias=True, **options)
        if config.swiglu
        else _mlp(config, **options)
    )
    scaled = width if FAMILIES[config.family].layer_scale else 0
    norm = functools.partial(_norm, config)
    return PreNormBlock(norm, attention, mlp, scaled)


class AttentionPool(nnx.Module):
    """One learned query over all patches, then a residual MLP."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs, **options: Any):
        options["rngs"], width = rngs, config.width
        self.probe = nnx.Param(normal(0.02)(rngs.params(), (1, 1, width)))
        self.attention = CrossAttention(
            width, config.heads, zero_out=False, fast_path=False, **options
        )
        self.norm = _norm(config)
        self.mlp = _mlp(config, **options)

    @jax.named_scope("pool")
    def __call__(self, h: Array) -> Array:
        """h (B, N, D) -> (B, D)."""
        probe = jnp.broadcast_to(self.probe[...], (len(h), 1, h.shape[-1]))
        x = self.attention(probe.astype(h.dtype), h)
        x = x + self.mlp(self.norm(x).astype(x.dtype))
        return x[:, 0]


class ViT(nnx.Module):
    """Vision transformer (arXiv 2010.11929) of one of the `FAMILIES`.

    UserError where the family is unknown, the patch does not divide the image,
    or the heads do not divide the width.
    """

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        check(config)
        family, width = FAMILIES[config.family], config.width
        precision = PRECISIONS[config.precision]
        options: dict[str, Any] = {"rngs": rngs, "precision": precision}

        def tokens(count: int) -> nnx.Param:
            shape = (1, count, width)
            return nnx.Param(normal(0.02)(rngs.params(), shape))

        self.patch_embed = Linear(
            3 * config.patch**2, width, bias=family.patch_bias, **options
        )
        self.cls = tokens(1) if family.cls else None
        self.positions = tokens(config.grid**2 + family.cls)
        self.blocks = stack_blocks(
            lambda rngs: _block(config, rngs=rngs, precision=precision),
            config.depth,
            rngs,
        )
        self.norm = _norm(config)
        self.registers = tokens(config.registers) if config.registers else None
        self.pre_norm = _norm(config) if family.pre_norm else None
        pooled, projection = family.attention_pool, config.projection
        self.pool = AttentionPool(config, **options) if pooled else None
        self.projection = (
            Linear(width, projection, bias=False, **options)
            if projection
            else None
        )
        self.config = config

    @jax.named_scope("encoder")
    def __call__(self, pixels: Array) -> Features:
        """Features of images of any size.

        The pixels are float (B, H, W, 3), normalised as the family wants them
        (`models.preprocess`). Where the grid is not the one of the position
        table, the table is interpolated. UserError where the patch does not
        divide the image.
        """
        family = FAMILIES[self.config.family]
        precision = PRECISIONS[self.config.precision]
        pixels, grid = _whole_patches(pixels, self.config)
        with jax.named_scope("patch_embed"):
            h = self.patch_embed(patchify(pixels, self.config.patch))
        if self.cls is not None:
            cls = jnp.broadcast_to(self.cls[...], (len(h), 1, h.shape[-1]))
            h = jnp.concatenate([cls.astype(h.dtype), h], axis=1)
        h = h + _interpolated(self.positions[...], grid, self.config)
        if self.registers is not None:
            shape = (len(h), *self.registers.shape[1:])
            tokens = jnp.broadcast_to(self.registers[...], shape)
            h = jnp.concatenate([h[:, :1], tokens, h[:, 1:]], axis=1)
        if self.pre_norm is not None:
            h = self.pre_norm(h)
        h = h.astype(precision.activations)
        h = scan_blocks(
            self.blocks,
            lambda h, block: block(h),
            h,
            name="encoder/blocks",
            operands=precision.operands,
        )
        return self._features(h, family)

    def _features(self, h: Array, family: Family) -> Features:
        first = family.cls + self.config.registers
        if not family.norm_patches:
            cls = self.norm(h[:, 0])
            pooled = cls
            if self.projection is not None:
                with jax.named_scope("projection"):
                    pooled = self.projection(cls).astype(jnp.float32)
            return Features(cls, h[:, first:].astype(jnp.float32), pooled)
        normed = self.norm(h)
        patches = normed[:, first:]
        if self.pool is not None:
            pooled = self.pool(normed.astype(h.dtype)).astype(jnp.float32)
            return Features(pooled, patches, pooled)
        cls = normed[:, 0] if family.cls else patches.mean(axis=1)
        return Features(cls, patches)


def _whole_patches(
    pixels: Array, config: ViTConfig
) -> tuple[Array, tuple[int, int]]:
    """The pixels that fill patches, and the grid (h, w) of these."""
    patch = config.patch
    height, width = pixels.shape[1:3]
    grid = (height // patch, width // patch)
    if height % patch or width % patch:
        if not FAMILIES[config.family].partial_patches:
            raise UserError(
                f"an image of {height} x {width} pixels does not split into "
                f"patches of {patch}; resize it"
            )
        pixels = pixels[:, : grid[0] * patch, : grid[1] * patch]
    return pixels, grid


@jax.named_scope("interpolate")
def _interpolated(
    table: Array, grid: tuple[int, int], config: ViTConfig
) -> Array:
    """Positions (1, N, D) for a grid (h, w), each family's own way.

    Bicubic everywhere. The official DINO and DINOv2 code gives torch a scale
    of (n + 0.1) / cells instead of the size n; models with registers were
    published with antialias instead.
    """
    cells = config.grid
    if grid == (cells, cells):
        return table
    family = FAMILIES[config.family]
    antialias = config.registers > 0
    offset = 0.0 if antialias else family.position_offset
    rows, columns = (
        bicubic_matrix(
            n,
            cells,
            scale=(n + offset) / cells if offset else 0.0,
            antialias=antialias,
        )
        for n in grid
    )
    first = int(family.cls)
    square = rearrange(table[0, first:], "(h w) d -> h w d", h=cells)
    resized = jnp.einsum(
        "yh,xw,hwd->yxd",
        rows,
        columns,
        square,
        precision=jax.lax.Precision.HIGHEST,
    )
    resized = rearrange(resized, "h w d -> 1 (h w) d")
    return jnp.concatenate([table[:, :first], resized], axis=1)
