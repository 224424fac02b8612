"""Blocks of Lumos, DiT, SiT and PixArt-alpha: one module, three families."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from i2i_prior.models.attention import CrossAttention, SelfAttention
from i2i_prior.models.blocks.modulation import (
    AdaFinalLayer,
    gather,
    modulations,
    scatter,
)
from i2i_prior.models.blocks.registry import Block, layer_roles, register
from i2i_prior.models.dit_config import DiTConfig
from i2i_prior.models.layers import (
    LayerNorm,
    Linear,
    Mlp,
    layer_norm,
    modulate,
    normal,
    zeros,
)
from i2i_prior.models.precision import PRECISIONS, Array
from i2i_prior.parallel.roles import MODULATION

PARTS = 6  # shift, scale and gate of attention and of the MLP


class LumosBlock(nnx.Module):
    """adaLN-zero block with a bare cross-attention between its two halves.

    The six modulations are a linear map of silu(time) in every block, or
    with `single` a learned table plus one map that all blocks share (PixArt's
    adaLN-single, arXiv 2310.00426 section 2.3). The cross-attention has
    neither a norm before it nor a gate behind it (Lumos, arXiv 2412.07767,
    official source). Without it this is DiT's block.
    """

    table: nnx.Param | None = None
    modulation: Linear | None = None
    cross_attention: CrossAttention | None = None

    def __init__(
        self, config: DiTConfig, *, rngs: nnx.Rngs, single: bool = False
    ):
        width, heads = config.width, config.heads
        precision = PRECISIONS[config.precision]
        options: dict[str, Any] = {"rngs": rngs, "precision": precision}
        table = normal((config.ratio * width) ** -0.5)
        if single:
            self.table = nnx.Param(table(rngs.params(), (PARTS, width)))
        else:
            parts = PARTS * width
            self.modulation = Linear(width, parts, init=zeros, **options)
        attention = {"form": config.attention, **options}
        # The epsilon of SiT's norms over heads, and REPA's.
        norm = functools.partial(LayerNorm, epsilon=1e-5)
        self.attention = SelfAttention(
            width, heads, qk_norm=norm if config.qk_norm else None, **attention
        )
        if config.cross_attention:
            self.cross_attention = CrossAttention(
                width, heads, fast_path=config.one_token, **attention
            )
        hidden = int(config.mlp_ratio * width)
        self.mlp = Mlp(width, hidden, width, **options)
        self.precision = precision

    def __call__(
        self, h: Array, time: Array, tokens: Array | None, mask: Array | None
    ) -> Array:
        """h (B, N, D) -> the same shape; see `registry.Block`."""
        with jax.named_scope("modulation" if self.table is None else "table"):
            modulation = time
            if self.modulation is not None:
                modulation = modulations(self.modulation, time)
            modulation = modulation.astype(jnp.float32)
            if self.table is not None:
                modulation = modulation + self.table[...].reshape(-1)
            shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(
                modulation, PARTS, axis=-1
            )
        x = modulate(layer_norm(h), shift1, scale1)
        h = h + gate1[:, None] * scatter(self.attention(self._gather(x)))
        if self.cross_attention is not None and tokens is not None:
            x = self._gather(h)
            h = h + scatter(self.cross_attention(x, tokens, mask))
        x = modulate(layer_norm(h), shift2, scale2)
        h = h + gate2[:, None] * scatter(self.mlp(self._gather(x)))
        return scatter(h.astype(self.precision.activations))

    def _gather(self, x: Array) -> Array:
        return gather(x.astype(self.precision.activations))


class LumosFinalLayer(nnx.Module):
    """Norm modulated by a (2, D) table + the raw time embedding.

    Neither a SiLU nor a linear map of the time embedding, as in PixArt and
    Lumos.
    """

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        width = config.width
        table = normal((config.ratio * width) ** -0.5)
        self.shift_scale = nnx.Param(table(rngs.params(), (2, width)))
        self.out = Linear(
            width,
            config.patch_outputs,
            rngs=rngs,
            precision=PRECISIONS[config.precision],
            init=zeros,
        )

    def __call__(self, h: Array, time: Array) -> Array:
        """h (B, N, D), time (B, D) -> (B, N, outputs)."""
        table = self.shift_scale[...]
        x = modulate(layer_norm(h), table[0] + time, table[1] + time)
        return self.out(x)


_LAYERS = layer_roles(
    attention=SelfAttention, cross_attention=CrossAttention, mlp=Mlp
)
_ROLES = {**_LAYERS, "modulation": MODULATION}
register("lumos", Block(LumosBlock, LumosFinalLayer, _ROLES))
register("dit", Block(LumosBlock, AdaFinalLayer, _ROLES))
register(
    "pixart",
    Block(
        functools.partial(LumosBlock, single=True),
        LumosFinalLayer,
        _LAYERS,
        shared_modulations=PARTS,
    ),
)
