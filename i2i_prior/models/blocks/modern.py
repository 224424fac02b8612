"""The modern block: RMSNorm, SwiGLU, 2-D RoPE and QK-norm."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
    Linear,
    RmsNorm,
    SwiGlu,
    modulate,
    rms_norm,
    zeros,
)
from i2i_prior.models.precision import PRECISIONS, Array
from i2i_prior.parallel.roles import MODULATION


class ModernBlock(nnx.Module):
    """RMSNorm, SwiGLU, RoPE, QK-norm; every sublayer normed and gated.

    Nine modulations of silu(time): shift, scale and gate for attention,
    MLP and cross-attention. Norms carry no gain of their own (the scale is
    one). The SwiGLU is narrowed to 2/3 to keep the MLP's parameter count.
    """

    cross_attention: CrossAttention | None = None

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        width, heads = config.width, config.heads
        precision = PRECISIONS[config.precision]
        options: dict[str, Any] = {"rngs": rngs, "precision": precision}
        attention: dict[str, Any] = {
            "qk_norm": RmsNorm,
            "bias": False,
            "form": config.attention,
            **options,
        }
        parts = 9 if config.cross_attention else 6
        self.modulation = Linear(width, parts * width, init=zeros, **options)
        self.attention = SelfAttention(width, heads, **attention)
        if config.cross_attention:
            attention["fast_path"] = config.one_token
            # The gate starts at zero, so the output kernel need not.
            attention |= {"zero_out": False, "tie_init": True}
            self.cross_attention = CrossAttention(width, heads, **attention)
        hidden = 16 * round(config.mlp_ratio * width * 2 / 3 / 16)
        self.mlp = SwiGlu(width, hidden, **options)
        self.precision = precision
        self.parts = parts

    def __call__(
        self,
        h: Array,
        time: Array,
        tokens: Array | None,
        mask: Array | None,
        angles: np.ndarray,
    ) -> Array:
        """h (B, N, D) -> the same shape; see `registry.Block`."""
        with jax.named_scope("modulation"):
            modulation = modulations(self.modulation, time)
            m = jnp.split(modulation.astype(jnp.float32), self.parts, axis=-1)
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


register(
    "modern",
    Block(
        ModernBlock,
        functools.partial(AdaFinalLayer, norm=rms_norm),
        {
            "modulation": MODULATION,
            **layer_roles(
                attention=SelfAttention,
                cross_attention=CrossAttention,
                mlp=SwiGlu,
            ),
        },
        rotary=True,
    ),
)
