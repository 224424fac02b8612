"""The diffusion transformer: one network, three doors for conditions.

A condition enters as **tokens** (B, M, D) through cross-attention, as
**pooled** (B, P) added to the time embedding, or as **concat** (B, H, W, K)
stacked on the noisy latent. Blocks come in two families, see `blocks`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from i2i_prior.errors import UserError
from i2i_prior.models.blocks import BLOCKS, FINAL_LAYERS
from i2i_prior.models.layers import (
    PRECISIONS,
    Array,
    Linear,
    Mlp,
    TimestepEmbedder,
    xavier,
)
from i2i_prior.models.positions import rope_2d, sincos_2d

# What a block's forward pass keeps for its backward pass.
REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclass(frozen=True)
class DiTConfig:
    """Shape and family of a DiT.

    Attributes:
      block: "lumos" or "modern".
      depth, width, heads: layers, channels D, attention heads.
      patch: side of a patch in latent pixels.
      input_size: side of the latent H (= W) that the model is trained on.
      channels: latent channels C.
      learn_sigma: output 2C channels, the second half the variance logits.
      mlp_ratio: hidden width of the MLP over D.
      cross_attention: whether blocks have the tokens door at all.
      pooled_width: P, 0 closes the pooled door.
      concat_channels: K, 0 closes the concat door.
      one_token: the tokens door gets a single unmasked token (fast path).
      precision: a name of `layers.PRECISIONS`.
      remat: a name of `REMAT_POLICIES`.
      scan_unroll: layers per scan iteration; depth unrolls the loop (faster
        on CPU, longer compilation).
    """

    block: str = "lumos"
    depth: int = 28
    width: int = 1152
    heads: int = 16
    patch: int = 2
    input_size: int = 32
    channels: int = 4
    learn_sigma: bool = True
    mlp_ratio: float = 4.0
    cross_attention: bool = True
    pooled_width: int = 0
    concat_channels: int = 0
    one_token: bool = False
    precision: str = "float32"
    remat: str = "none"
    scan_unroll: int = 1

    @property
    def out_channels(self) -> int:
        """Channels of the raw output."""
        return self.channels * (2 if self.learn_sigma else 1)


def patchify(x: Array, patch: int) -> Array:
    """(B, H, W, C) -> (B, H/p * W/p, p * p * C), row-major, (p, q, c)."""
    return rearrange(x, "b (h p) (w q) c -> b (h w) (p q c)", p=patch, q=patch)


def unpatchify(tokens: Array, grid: tuple[int, int], patch: int) -> Array:
    """(B, h * w, p * p * C) -> (B, h p, w p, C), inverse of `patchify`."""
    return rearrange(
        tokens,
        "b (h w) (p q c) -> b (h p) (w q) c",
        h=grid[0],
        p=patch,
        q=patch,
    )


def stack_blocks(make, depth: int, rngs: nnx.Rngs) -> nnx.Module:
    """Builds `depth` layers as one module with a leading layer axis."""

    @nnx.split_rngs(splits=depth)
    @nnx.vmap(in_axes=0, out_axes=0)
    def build(rngs: nnx.Rngs):
        return make(rngs)

    return build(rngs)


def scan_blocks(blocks, body, x: Array, remat: str, unroll: int) -> Array:
    """Runs x through stacked layers: body(x, block) -> x, one scan."""

    def step(carry, block):
        return body(carry, block), None

    if REMAT_POLICIES[remat] is not None:
        step = jax.checkpoint(
            step, policy=REMAT_POLICIES[remat], prevent_cse=False
        )
    return jax.lax.scan(step, x, blocks, unroll=unroll)[0]


class DiT(nnx.Module):
    """Predicts noise, data or velocity from a noisy latent.

    Lumos (arXiv 2412.07767) and DiT (arXiv 2212.09748) with `block="lumos"`.

    Raises:
      UserError: where heads do not divide the width, the patch does not
        divide the input, or a name is unknown.
    """

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        _check(config)
        precision = PRECISIONS[config.precision]
        width, patch = config.width, config.patch
        inputs = patch**2 * (config.channels + config.concat_channels)
        # The official patch embedding is a convolution initialised as a
        # linear layer over the flattened patch: the same fans.
        self.patch_embed = Linear(
            inputs,
            width,
            rngs=rngs,
            precision=precision,
            init=xavier(inputs, width),
        )
        self.time_embed = TimestepEmbedder(
            width, rngs=rngs, precision=precision
        )
        self.pooled_embed = (
            Mlp(
                config.pooled_width,
                width,
                width,
                rngs=rngs,
                precision=precision,
                activation=jax.nn.silu,
            )
            if config.pooled_width
            else None
        )
        make = functools.partial(_make_block, config)
        self.blocks = stack_blocks(make, config.depth, rngs)
        self.final = FINAL_LAYERS[config.block](
            width,
            patch**2 * config.out_channels,
            rngs=rngs,
            precision=precision,
        )
        self.config = config

    def __call__(
        self,
        x: Array,
        timestep: Array,
        tokens: Array | None = None,
        mask: Array | None = None,
        pooled: Array | None = None,
        concat: Array | None = None,
    ) -> Array:
        """The raw network output.

        Args:
          x: noisy latent, float (B, H, W, C).
          timestep: float (B,), 0..1000 (`Path.network_time`).
          tokens: (B, M, D), already projected by the conditioner.
          mask: bool (B, M), true where a token counts.
          pooled: (B, P).
          concat: (B, H, W, K).

        Returns:
          float32 (B, H, W, C), or (B, H, W, 2C) with learned sigma.

        Raises:
          UserError: where a condition has no door, or a door no condition.
        """
        config = self.config
        _check_doors(config, tokens, pooled, concat)
        precision = PRECISIONS[config.precision]
        if concat is not None:
            x = jnp.concatenate([x, concat], axis=-1)
        grid = (x.shape[1] // config.patch, x.shape[2] // config.patch)
        h = self.patch_embed(patchify(x, config.patch))
        base = config.input_size // config.patch
        h = h + sincos_2d(config.width, grid, base)
        # Rotary phases are relative: without the table above the queries of
        # the cross-attention would not know where they are.
        angles = (
            rope_2d(config.width // config.heads, grid)
            if config.block == "modern"
            else None
        )
        h = h.astype(precision.activations)
        time = self.time_embed(timestep)
        if self.pooled_embed is not None and pooled is not None:
            time = time + self.pooled_embed(pooled)

        def body(h: Array, block: nnx.Module) -> Array:
            return block(h, time, tokens, mask, angles)

        h = scan_blocks(self.blocks, body, h, config.remat, config.scan_unroll)
        out = unpatchify(self.final(h, time), grid, config.patch)
        return out.astype(jnp.float32)


def _make_block(config: DiTConfig, rngs: nnx.Rngs) -> nnx.Module:
    return BLOCKS[config.block](
        config.width,
        config.heads,
        mlp_ratio=config.mlp_ratio,
        cross_attention=config.cross_attention,
        fast_path=config.one_token,
        rngs=rngs,
        precision=PRECISIONS[config.precision],
    )


def _check(config: DiTConfig) -> None:
    for name, value, known in (
        ("block", config.block, BLOCKS),
        ("precision", config.precision, PRECISIONS),
        ("remat", config.remat, REMAT_POLICIES),
    ):
        if value not in known:
            raise UserError(
                f"model.{name} {value!r} is unknown; choose one of "
                f"{', '.join(known)}"
            )
    if config.width % config.heads or (config.width // config.heads) % 2:
        raise UserError(
            f"model.width {config.width} does not split into "
            f"{config.heads} heads of even width; change model.width or "
            "model.heads"
        )
    if config.width % 4:
        raise UserError(
            f"model.width {config.width} must be divisible by 4 for its 2-D "
            "position table"
        )
    if config.input_size % config.patch:
        raise UserError(
            f"a latent of {config.input_size} pixels a side does not split "
            f"into patches of {config.patch}; change model.patch or "
            "data.image_size"
        )


def _check_doors(config: DiTConfig, tokens, pooled, concat) -> None:
    for name, given, door in (
        ("tokens", tokens, config.cross_attention),
        ("pooled", pooled, config.pooled_width > 0),
        ("concat", concat, config.concat_channels > 0),
    ):
        if (given is not None) != door:
            has = "takes" if door else "takes no"
            got = "none was" if given is None else "one was"
            raise UserError(f"this DiT {has} {name} condition, but {got} given")


def frozen_names(config: DiTConfig) -> tuple[str, ...]:
    """Regular expressions of DiT parameters that get no gradient."""
    if config.cross_attention and config.one_token:
        return (r"blocks/cross_attention/(q|k|q_norm|k_norm)/",)
    return ()


def token_count(config: DiTConfig) -> int:
    """Image tokens N at the training size."""
    return int(np.prod([config.input_size // config.patch] * 2))
