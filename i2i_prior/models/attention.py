"""Self-attention, cross-attention and the product both share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from i2i_prior.models.layers import (
    FLOAT32,
    Array,
    Linear,
    Precision,
    layer_norm,
    rms_norm,
    xavier,
    zeros,
)
from i2i_prior.models.positions import rotate


def attend(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    precision: Precision = FLOAT32,
) -> Array:
    """softmax(q k^T / sqrt(d)) v.

    On CPU one 3-D batched product over (batch * heads) is used: 2x and more
    faster there than the 4-D form. Elsewhere the backend's own.

    Args:
      q: (B, N, heads, d).
      k, v: (B, M, heads, d).
      mask: bool (B, M), true where a key counts; None counts all.

    Returns:
      (B, N, heads, d) in the activation dtype.
    """
    if jax.default_backend() != "cpu":
        q, k, v = (a.astype(precision.operands) for a in (q, k, v))
        full = None if mask is None else mask[:, None, None, :]
        out = jax.nn.dot_product_attention(q, k, v, mask=full)
        return out.astype(precision.activations)
    batch, queries, heads, width = q.shape

    def merge(a: Array) -> Array:
        a = a.astype(precision.operands).transpose(0, 2, 1, 3)
        return a.reshape(batch * heads, -1, width)

    q, k, v = merge(q), merge(k), merge(v)
    scores = jax.lax.dot_general(
        q,
        k,
        (((2,), (2,)), ((0,), (0,))),
        preferred_element_type=jnp.float32,
    )
    scores = scores * width**-0.5
    if mask is not None:
        rows = jnp.repeat(mask, heads, axis=0)[:, None]
        scores = jnp.where(rows, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(precision.operands)
    out = jax.lax.dot_general(
        weights,
        v,
        (((2,), (1,)), ((0,), (0,))),
        preferred_element_type=jnp.float32,
    )
    out = out.reshape(batch, heads, queries, width).transpose(0, 2, 1, 3)
    return out.astype(precision.activations)


class HeadNorm(nnx.Module):
    """RMSNorm with gain over each head's channels (QK-norm)."""

    def __init__(self, head_width: int):
        self.gain = nnx.Param(jnp.ones((head_width,)))

    def __call__(self, x: Array) -> Array:
        """x (B, N, heads, d) -> the same shape and dtype."""
        return (rms_norm(x) * self.gain[...]).astype(x.dtype)


class HeadLayerNorm(nnx.Module):
    """LayerNorm with gain and bias over each head's channels (SiT, REPA)."""

    def __init__(self, head_width: int):
        self.gain = nnx.Param(jnp.ones((head_width,)))
        self.bias = nnx.Param(jnp.zeros((head_width,)))

    def __call__(self, x: Array) -> Array:
        """x (B, N, heads, d) -> the same shape and dtype."""
        normed = layer_norm(x, 1e-5) * self.gain[...] + self.bias[...]
        return normed.astype(x.dtype)


class SelfAttention(nnx.Module):
    """Multi-head self-attention with a fused qkv kernel, rows [q | k | v]."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        rngs: nnx.Rngs,
        precision: Precision = FLOAT32,
        qk_norm: Callable[[int], nnx.Module] | None = None,
        bias: bool = True,
    ):
        options: dict[str, Any] = {
            "rngs": rngs,
            "precision": precision,
            "bias": bias,
        }
        self.qkv = Linear(width, 3 * width, **options)
        self.out = Linear(width, width, **options)
        self.q_norm = qk_norm(width // heads) if qk_norm else None
        self.k_norm = qk_norm(width // heads) if qk_norm else None
        self.heads = heads
        self.precision = precision

    def __call__(self, x: Array, angles: np.ndarray | None = None) -> Array:
        """x (B, N, D) -> (B, N, D); angles (N, d // 2) switches RoPE on."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        out = attend(q, k, v, precision=self.precision)
        return self.out(out.reshape(batch, tokens, width))


class CrossAttention(nnx.Module):
    """Queries from the image tokens, keys and values from the condition.

    With a single unmasked condition token the softmax over one key is 1, so
    the result is out(v(token)) for every query, whatever q and k are. Then
    neither is computed (13.8 % fewer FLOPs in Lumos-XL/2) and neither
    receives a gradient: `tasks` leaves them out of the optimizer.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        rngs: nnx.Rngs,
        precision: Precision = FLOAT32,
        qk_norm: Callable[[int], nnx.Module] | None = None,
        bias: bool = True,
        zero_out: bool = True,
        fast_path: bool = True,
        tie_init: bool = False,
    ):
        options: dict[str, Any] = {
            "rngs": rngs,
            "precision": precision,
            "bias": bias,
        }
        self.q = Linear(width, width, **options)
        # Lumos fuses k and v in one kernel of 2D rows: its Xavier fans.
        fused = xavier(width, 2 * width)
        self.k = Linear(width, width, init=fused, **options)
        if tie_init:
            # Image and condition tokens carry the same position table: with
            # equal projections each looks at its own place from the start.
            self.k.kernel = nnx.Param(jnp.copy(self.q.kernel[...]))
        self.v = Linear(width, width, init=fused, **options)
        out_init = zeros if zero_out else None
        self.out = Linear(width, width, init=out_init, **options)
        self.q_norm = qk_norm(width // heads) if qk_norm else None
        self.k_norm = qk_norm(width // heads) if qk_norm else None
        self.heads = heads
        self.precision = precision
        self.fast_path = fast_path

    def __call__(
        self, x: Array, tokens: Array, mask: Array | None = None
    ) -> Array:
        """What the condition adds to every image token.

        Args:
          x: (B, N, D).
          tokens: (B, M, D).
          mask: bool (B, M), true where a token counts.

        Returns:
          (B, N, D), or (B, 1, D) to be broadcast where M is 1.
        """
        batch, queries, width = x.shape
        if self.fast_path and tokens.shape[1] == 1 and mask is None:
            return self.out(self.v(tokens))
        q = self.q(x).reshape(batch, queries, self.heads, -1)
        k = self.k(tokens).reshape(batch, -1, *q.shape[2:])
        v = self.v(tokens).reshape(k.shape)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        out = attend(q, k, v, mask, self.precision)
        return self.out(out.reshape(batch, queries, width))
