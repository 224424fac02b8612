"""Transformer blocks and final layers, one pair a family.

Every block has the signature (h, time, tokens, mask, angles) -> h with
h (B, N, D), time (B, D), tokens (B, M, D), mask (B, M), angles (N, d // 2).
Blocks of adaLN-single get the shared map of the time, (B, 6 D), instead.
`ratio` is muP's, base width / width (`models.mup`): tables start as those of
the base width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from i2i_prior.models.attention import (
    CrossAttention,
    HeadLayerNorm,
    HeadNorm,
    SelfAttention,
)
from i2i_prior.models.layers import (
    Linear,
    Mlp,
    SwiGlu,
    layer_norm,
    modulate,
    normal,
    rms_norm,
    zeros,
)
from i2i_prior.models.precision import (
    FLOAT32,
    Array,
    Precision,
)
from i2i_prior.parallel.constraints import (
    TOKENS,
    constrain,
)
from i2i_prior.parallel.mesh import BATCH, CONTEXT, FSDP, REPLICA
from i2i_prior.parallel.sharding import ALL


def scatter(h: Array) -> Array:
    """The residual stream (B, N, D): tokens apart on context and tensor."""
    return constrain(h, BATCH, TOKENS)


def gather(x: Array) -> Array:
    """What sublayers read (B, N, D): tokens apart on context only."""
    # Scattered once more in this dtype: else float32 would travel.
    return constrain(scatter(x), BATCH, CONTEXT)


def modulations(linear: Linear, time: Array) -> Array:
    """A linear map of silu(time), (B, D) -> (B, parts * D).

    A third of a block's weights for one row an image: sharded, every device
    maps the rows of its whole replica through its own columns, and the rows
    go back to their devices. The kernel stays where it is.
    """
    rows = constrain(jax.nn.silu(time), REPLICA)
    y = constrain(linear(rows), REPLICA, ALL)
    # In steps of one collective each: asked for at once, the compiler sums
    # the rows of all chips on all chips.
    return constrain(constrain(y, REPLICA, FSDP), BATCH)


class LumosBlock(nnx.Module):
    """adaLN-zero block with a bare cross-attention between its two halves.

    The six modulations are a linear map of silu(time) in every block, or
    with `single` a learned table plus one map that all blocks share (PixArt's
    adaLN-single, arXiv 2310.00426 section 2.3). The cross-attention has
    neither a norm before it nor a gate behind it (Lumos, arXiv 2412.07767,
    official source). Without it this is DiT's block.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mlp_ratio: float,
        cross_attention: bool,
        fast_path: bool,
        rngs: nnx.Rngs,
        qk_norm: bool = False,
        single: bool = False,
        precision: Precision = FLOAT32,
        form: str = "auto",
        ratio: float = 1.0,
    ):
        options: dict[str, Any] = {"rngs": rngs, "precision": precision}
        table = normal((ratio * width) ** -0.5)
        self.table = (
            nnx.Param(table(rngs.params(), (6, width))) if single else None
        )
        self.modulation = (
            None if single else Linear(width, 6 * width, init=zeros, **options)
        )
        self.attention = SelfAttention(
            width,
            heads,
            qk_norm=HeadLayerNorm if qk_norm else None,
            form=form,
            **options,
        )
        self.cross_attention = (
            CrossAttention(
                width, heads, fast_path=fast_path, form=form, **options
            )
            if cross_attention
            else None
        )
        self.mlp = Mlp(width, int(mlp_ratio * width), width, **options)
        self.precision = precision

    def __call__(
        self,
        h: Array,
        time: Array,
        tokens: Array | None,
        mask: Array | None,
        angles: np.ndarray | None,
    ) -> Array:
        """See the module docstring; angles are not used (no RoPE)."""
        del angles
        modulation = (
            time
            if self.modulation is None
            else modulations(self.modulation, time)
        )
        modulation = modulation.astype(jnp.float32)
        if self.table is not None:
            modulation = modulation + self.table[...].reshape(-1)
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(
            modulation, 6, axis=-1
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


class ModernBlock(nnx.Module):
    """RMSNorm, SwiGLU, RoPE, QK-norm; every sublayer normed and gated.

    Nine modulations of silu(time): shift, scale and gate for attention,
    cross-attention and MLP. Norms carry no gain of their own (the scale is
    one). The SwiGLU is narrowed to 2/3 to keep the MLP's parameter count.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mlp_ratio: float,
        cross_attention: bool,
        fast_path: bool,
        rngs: nnx.Rngs,
        qk_norm: bool = False,
        precision: Precision = FLOAT32,
        form: str = "auto",
        ratio: float = 1.0,
    ):
        del qk_norm, ratio  # always, and by RMS; no tables
        options: dict[str, Any] = {"rngs": rngs, "precision": precision}
        attention: dict[str, Any] = {
            "qk_norm": HeadNorm,
            "bias": False,
            "form": form,
            **options,
        }
        parts = 9 if cross_attention else 6
        self.modulation = Linear(width, parts * width, init=zeros, **options)
        self.attention = SelfAttention(width, heads, **attention)
        self.cross_attention = (
            # The gate starts at zero, so the output kernel need not.
            CrossAttention(
                width,
                heads,
                fast_path=fast_path,
                zero_out=False,
                tie_init=True,
                **attention,
            )
            if cross_attention
            else None
        )
        hidden = 16 * round(mlp_ratio * width * 2 / 3 / 16)
        self.mlp = SwiGlu(width, hidden, **options)
        self.precision = precision
        self.parts = parts

    def __call__(
        self,
        h: Array,
        time: Array,
        tokens: Array | None,
        mask: Array | None,
        angles: np.ndarray | None,
    ) -> Array:
        """See the module docstring."""
        modulation = modulations(self.modulation, time).astype(jnp.float32)
        m = jnp.split(modulation, self.parts, axis=-1)
        x = self._norm(h, m[0], m[1])
        h = h + m[2][:, None] * scatter(self.attention(x, angles))
        if self.cross_attention is not None and tokens is not None:
            x = self._norm(h, m[6], m[7])
            crossed = self.cross_attention(x, tokens, mask)
            h = h + m[8][:, None] * scatter(crossed)
        x = self._norm(h, m[3], m[4])
        h = h + m[5][:, None] * scatter(self.mlp(x))
        return scatter(h.astype(self.precision.activations))

    def _norm(self, h: Array, shift: Array, scale: Array) -> Array:
        x = modulate(rms_norm(h), shift, scale)
        return gather(x.astype(self.precision.activations))


class LumosFinalLayer(nnx.Module):
    """Norm modulated by a (2, D) table + the raw time embedding.

    Neither a SiLU nor a linear map of the time embedding, as in PixArt and
    Lumos.
    """

    def __init__(
        self,
        width: int,
        outputs: int,
        *,
        rngs: nnx.Rngs,
        precision: Precision = FLOAT32,
        ratio: float = 1.0,
    ):
        table = normal((ratio * width) ** -0.5)(rngs.params(), (2, width))
        self.shift_scale = nnx.Param(table)
        self.out = Linear(
            width, outputs, rngs=rngs, precision=precision, init=zeros
        )

    def __call__(self, h: Array, time: Array) -> Array:
        """h (B, N, D), time (B, D) -> (B, N, outputs)."""
        table = self.shift_scale[...]
        x = modulate(layer_norm(h), table[0] + time, table[1] + time)
        return self.out(x)


class AdaFinalLayer(nnx.Module):
    """Norm modulated by a linear map of silu(time), zero at the start.

    With LayerNorm this is DiT's, with RMSNorm the modern one.
    """

    def __init__(
        self,
        width: int,
        outputs: int,
        *,
        rngs: nnx.Rngs,
        precision: Precision = FLOAT32,
        norm: Callable[[Array], Array] = layer_norm,
        ratio: float = 1.0,
    ):
        del ratio  # no tables
        options: dict[str, Any] = {
            "rngs": rngs,
            "precision": precision,
            "init": zeros,
        }
        self.modulation = Linear(width, 2 * width, **options)
        self.out = Linear(width, outputs, **options)
        self.norm = norm

    def __call__(self, h: Array, time: Array) -> Array:
        """h (B, N, D), time (B, D) -> (B, N, outputs)."""
        shift, scale = jnp.split(self.modulation(jax.nn.silu(time)), 2, -1)
        return self.out(modulate(self.norm(h), shift, scale))


BLOCKS: dict[str, Any] = {
    "lumos": LumosBlock,
    "dit": LumosBlock,
    "pixart": functools.partial(LumosBlock, single=True),
    "modern": ModernBlock,
}
FINAL_LAYERS: dict[str, Any] = {
    "lumos": LumosFinalLayer,
    "dit": AdaFinalLayer,
    "pixart": LumosFinalLayer,
    "modern": functools.partial(AdaFinalLayer, norm=rms_norm),
}
