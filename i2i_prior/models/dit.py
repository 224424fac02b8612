"""The diffusion transformer: one network, three inputs for conditions.

A condition enters as **tokens** (B, M, D) through cross-attention, as
**pooled** (B, P) added to the time embedding, or as **concat** (B, H, W, K)
stacked on the noisy latent. The families of blocks are in `models.blocks`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from i2i_prior.errors import UserError, check_known
from i2i_prior.models.attention_kernels import CHOICES
from i2i_prior.models.blocks import BLOCKS
from i2i_prior.models.blocks.modulation import scatter
from i2i_prior.models.dit_config import DiTConfig, check_inputs, token_count
from i2i_prior.models.layers import Linear, Mlp, TimestepEmbedder, xavier, zeros
from i2i_prior.models.pooled import ClassTable, SizeEmbedder
from i2i_prior.models.positions import rope_2d, sincos_2d
from i2i_prior.models.precision import PRECISIONS, Array
from i2i_prior.models.scan import (
    REMAT_POLICIES,
    patchify,
    scan_blocks,
    stack_blocks,
    unpatchify,
)
from i2i_prior.parallel.constraints import constrain
from i2i_prior.parallel.mesh import BATCH, REPLICA

__all__ = ["DiT", "DiTConfig", "check_config", "frozen_names", "token_count"]


def check_config(config: DiTConfig) -> None:
    """Raises UserError where no network can have this shape."""
    for name, value, known in (
        ("block", config.block, BLOCKS),
        ("precision", config.precision, PRECISIONS),
        ("remat", config.remat, REMAT_POLICIES),
        ("attention", config.attention, CHOICES),
    ):
        check_known(f"model.{name}", value, known)
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
    if config.pooled_width and config.classes:
        raise UserError(
            "the pooled condition is class labels or vectors, not both; set "
            "one of classes and pooled_width to 0"
        )
    if config.size_conditions and config.width % 3:
        raise UserError(
            f"model.width {config.width} must be divisible by 3 for size and "
            "aspect conditions"
        )
    if config.input_size % config.patch:
        raise UserError(
            f"a latent of {config.input_size} pixels a side does not split "
            f"into patches of {config.patch}; change model.patch or "
            "data.image_size"
        )


def frozen_names(config: DiTConfig) -> tuple[str, ...]:
    """Regular expressions of DiT parameters that get no gradient."""
    if config.cross_attention and config.one_token:
        return (f"blocks/{BLOCKS[config.block].idle}",)
    return ()


class DiT(nnx.Module):
    """Predicts noise, data or velocity from a noisy latent.

    The block decides the family: Lumos (arXiv 2412.07767), DiT (arXiv
    2212.09748) and SiT, PixArt-alpha (arXiv 2310.00426), or modern. UserError
    where heads do not divide the width, the patch does not divide the input, or
    a name is unknown.
    """

    pooled_embed: nnx.Module | None = None
    size_embed: SizeEmbedder | None = None
    time_modulation: Linear | None = None

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        check_config(config)
        width, ratio, family = config.width, config.ratio, BLOCKS[config.block]
        precision = PRECISIONS[config.precision]
        options: dict[str, Any] = {"rngs": rngs, "precision": precision}
        inputs = config.patch**2 * (config.channels + config.concat_channels)
        # The official patch embedding is a convolution initialised as a
        # linear layer over the flattened patch: the same fans.
        init = xavier(inputs, ratio * width)
        self.patch_embed = Linear(inputs, width, init=init, **options)
        self.time_embed = TimestepEmbedder(width, ratio=ratio, **options)
        if config.classes:
            self.pooled_embed = ClassTable(config.classes + 1, width, rngs=rngs)
        elif config.pooled_width:
            self.pooled_embed = Mlp(
                config.pooled_width,
                width,
                width,
                init=xavier(config.pooled_width, ratio * width),
                out_init=xavier(width, width),
                activation=jax.nn.silu,
                **options,
            )
        if config.size_conditions:
            self.size_embed = SizeEmbedder(width, ratio=ratio, **options)
        if family.shared_modulations:
            parts = family.shared_modulations * width
            self.time_modulation = Linear(width, parts, init=zeros, **options)
        self.blocks = stack_blocks(
            lambda rngs: family.cls(config, rngs=rngs), config.depth, rngs
        )
        self.final = family.final(config, rngs=rngs)
        self.config = config

    @jax.named_scope("dit")
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

        It is float32 (B, H, W, C), or (B, H, W, 2C) with learned sigma.
        UserError for a missing condition, or one that is not taken.

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
        """
        config = self.config
        time_conditions = {"pooled": pooled, "size": size, "aspect": aspect}
        given = {"tokens": tokens, "concat": concat, **time_conditions}
        check_inputs(config, given)
        grid = (x.shape[1] // config.patch, x.shape[2] // config.patch)
        h = self.embed_inputs(x, concat)
        time = self.embed_time(timestep, **time_conditions)
        h = scan_blocks(
            self.blocks,
            self.layer(time, tokens, mask, grid),
            h,
            remat=config.remat,
            unroll=config.scan_unroll,
            name="dit/blocks",
            operands=PRECISIONS[config.precision].operands,
        )
        return self.project_out(h, time, grid)

    def embed_inputs(self, x: Array, concat: Array | None = None) -> Array:
        """x (B, H, W, C), concat (B, H, W, K) -> residual stream (B, N, D)."""
        config = self.config
        if concat is not None:
            x = jnp.concatenate([x, concat], axis=-1)
        grid = (x.shape[1] // config.patch, x.shape[2] // config.patch)
        with jax.named_scope("patch_embed"):
            h = self.patch_embed(patchify(x, config.patch))
        base = config.base_size or config.input_size // config.patch
        h = h + sincos_2d(config.width, grid, base, config.position_scale)
        return scatter(h.astype(PRECISIONS[config.precision].activations))

    def embed_time(
        self,
        timestep: Array,
        pooled: Array | None = None,
        size: Array | None = None,
        aspect: Array | None = None,
    ) -> Array:
        """Time embedding with the pooled conditions added, (B, D)."""
        with jax.named_scope("time_embed"):
            time = self.time_embed(timestep)
        if self.pooled_embed is not None and pooled is not None:
            with jax.named_scope("pooled_embed"):
                time = time + self.pooled_embed(pooled)
        if self.size_embed is not None:
            assert size is not None
            assert aspect is not None
            with jax.named_scope("size_embed"):
                time = time + self.size_embed(size, aspect)
        return time

    def layer(
        self,
        time: Array,
        tokens: Array | None,
        mask: Array | None,
        grid: tuple[int, int],
    ) -> Callable[[Array, nnx.Module], Array]:
        """One layer as body(h (B, N, D), block) -> h; `time` (B, D) is of
        `embed_time`, `grid` the tokens a column and a row."""
        config, options = self.config, {}
        if BLOCKS[config.block].rotary:
            # Rotary phases are relative: without the table of `embed_inputs`
            # the queries of the cross-attention would have no position.
            options["angles"] = rope_2d(config.width // config.heads, grid)
        modulation = constrain(time, REPLICA)  # see `modulation.modulations`
        if self.time_modulation is not None:
            with jax.named_scope("time_modulation"):
                modulation = self.time_modulation(jax.nn.silu(time))

        def body(h: Array, block: nnx.Module) -> Array:
            return block(h, modulation, tokens, mask, **options)

        return body

    def project_out(
        self, h: Array, time: Array, grid: tuple[int, int]
    ) -> Array:
        """The output of a call, from h (B, N, D) behind the last block."""
        with jax.named_scope("final"):
            h = constrain(self.final(h, time), BATCH)
        out = unpatchify(h, grid, self.config.patch)
        return out.astype(jnp.float32)
