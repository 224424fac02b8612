"""The diffusion transformer: one network, three doors for conditions.

A condition enters as **tokens** (B, M, D) through cross-attention, as
**pooled** (B, P) added to the time embedding, or as **concat** (B, H, W, K)
stacked on the noisy latent. Blocks come in two families, see `blocks`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from i2i_prior.models.blocks import BLOCKS, FINAL_LAYERS, scatter
from i2i_prior.models.dit_config import (
    DiTConfig,
    check_config,
    check_inputs,
    frozen_names,
    token_count,
)
from i2i_prior.models.layers import Linear, TimestepEmbedder, xavier, zeros
from i2i_prior.models.pooled import ClassTable, SizeEmbedder, pooled_mlp
from i2i_prior.models.positions import rope_2d, sincos_2d
from i2i_prior.models.precision import (
    PRECISIONS,
    Array,
)
from i2i_prior.models.scan import (
    patchify,
    scan_blocks,
    stack_blocks,
    unpatchify,
)
from i2i_prior.parallel.constraints import constrain
from i2i_prior.parallel.mesh import BATCH, REPLICA

__all__ = ["DiT", "DiTConfig", "frozen_names", "token_count"]


class DiT(nnx.Module):
    """Predicts noise, data or velocity from a noisy latent.

    The block decides the family: Lumos (arXiv 2412.07767), DiT (arXiv
    2212.09748) and SiT, PixArt-alpha (arXiv 2310.00426), or modern.

    Raises:
      UserError: where heads do not divide the width, the patch does not
        divide the input, or a name is unknown.
    """

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        check_config(config)
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
            init=xavier(inputs, config.ratio * width),
        )
        self.time_embed = TimestepEmbedder(
            width, rngs=rngs, precision=precision, ratio=config.ratio
        )
        self.pooled_embed = _make_pooled(config, rngs)
        self.size_embed = (
            SizeEmbedder(
                width, rngs=rngs, precision=precision, ratio=config.ratio
            )
            if config.size_conditions
            else None
        )
        # adaLN-single: one linear map for all blocks.
        self.time_modulation = (
            Linear(width, 6 * width, rngs=rngs, precision=precision, init=zeros)
            if config.block == "pixart"
            else None
        )
        make = functools.partial(_make_block, config)
        self.blocks = stack_blocks(make, config.depth, rngs)
        self.final = FINAL_LAYERS[config.block](
            width,
            patch**2 * config.out_channels,
            rngs=rngs,
            precision=precision,
            ratio=config.ratio,
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
        size: Array | None = None,
        aspect: Array | None = None,
    ) -> Array:
        """The raw network output.

        Args:
          x: noisy latent, float (B, H, W, C).
          timestep: float (B,), 0..1000 (`Path.network_time`), or what the
            weights were trained with.
          tokens: (B, M, D), already projected by the conditioner.
          mask: bool (B, M), true where a token counts.
          pooled: float (B, P); class labels int (B,) where there are
            classes.
          concat: (B, H, W, K).
          size: float (B, 2), height and width of the image in pixels.
          aspect: float (B, 1), height / width.

        Returns:
          float32 (B, H, W, C), or (B, H, W, 2C) with learned sigma.

        Raises:
          UserError: where a condition has no door, or a door no condition.
        """
        config = self.config
        h, time, body = self.enter(
            x, timestep, tokens, mask, pooled, concat, size, aspect
        )
        h = scan_blocks(
            self.blocks,
            body,
            h,
            config.remat,
            config.scan_unroll,
            name="dit/blocks",
            operands=PRECISIONS[config.precision].operands,
        )
        grid = (x.shape[1] // config.patch, x.shape[2] // config.patch)
        return self.leave(h, time, grid)

    def enter(
        self,
        x: Array,
        timestep: Array,
        tokens: Array | None = None,
        mask: Array | None = None,
        pooled: Array | None = None,
        concat: Array | None = None,
        size: Array | None = None,
        aspect: Array | None = None,
    ) -> tuple[Array, Array, Callable[[Array, nnx.Module], Array]]:
        """What comes before the blocks; takes what a call takes.

        Returns:
          the residual stream h (B, N, D), the time embedding (B, D), and
          body(h, block) -> h, one layer.
        """
        config = self.config
        check_inputs(config, tokens, pooled, concat, size, aspect)
        precision = PRECISIONS[config.precision]
        if concat is not None:
            x = jnp.concatenate([x, concat], axis=-1)
        grid = (x.shape[1] // config.patch, x.shape[2] // config.patch)
        h = self.patch_embed(patchify(x, config.patch))
        base = config.base_size or config.input_size // config.patch
        h = h + sincos_2d(config.width, grid, base, config.position_scale)
        # Rotary phases are relative: without the table above the queries of
        # the cross-attention would not know where they are.
        angles = (
            rope_2d(config.width // config.heads, grid)
            if config.block == "modern"
            else None
        )
        h = scatter(h.astype(precision.activations))
        time = self.time_embed(timestep)
        if self.pooled_embed is not None and pooled is not None:
            time = time + self.pooled_embed(pooled)
        if self.size_embed is not None:
            assert size is not None
            assert aspect is not None
            time = time + self.size_embed(size, aspect)
        modulation = constrain(time, REPLICA)  # see `blocks.modulations`
        if self.time_modulation is not None:
            modulation = self.time_modulation(jax.nn.silu(time))

        def body(h: Array, block: nnx.Module) -> Array:
            return block(h, modulation, tokens, mask, angles)

        return h, time, body

    def leave(self, h: Array, time: Array, grid: tuple[int, int]) -> Array:
        """What comes behind the blocks.

        Args:
          h, time: of `enter`, h after the last block.
          grid: tokens a column and a row.

        Returns:
          what a call returns.
        """
        h = constrain(self.final(h, time), BATCH)
        out = unpatchify(h, grid, self.config.patch)
        return out.astype(jnp.float32)


def _make_block(config: DiTConfig, rngs: nnx.Rngs) -> nnx.Module:
    return BLOCKS[config.block](
        config.width,
        config.heads,
        mlp_ratio=config.mlp_ratio,
        cross_attention=config.cross_attention,
        fast_path=config.one_token,
        qk_norm=config.qk_norm,
        form=config.attention,
        ratio=config.ratio,
        rngs=rngs,
        precision=PRECISIONS[config.precision],
    )


def _make_pooled(config: DiTConfig, rngs: nnx.Rngs) -> nnx.Module | None:
    precision = PRECISIONS[config.precision]
    if config.classes:
        return ClassTable(config.classes + 1, config.width, rngs=rngs)
    if config.pooled_width:
        return pooled_mlp(
            config.pooled_width,
            config.width,
            rngs=rngs,
            precision=precision,
            ratio=config.ratio,
        )
    return None
