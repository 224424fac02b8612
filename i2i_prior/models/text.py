"""Output and attention of both text encoders."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from i2i_prior.models.layers import gelu_tanh, quick_gelu
from i2i_prior.models.precision import Array, Precision


class TextFeatures(NamedTuple):
    """Output of a text encoder.

    Attributes:
      tokens: float32 (B, L, D), after the last norm.
      pooled: float32 (B, P), one vector a caption; None where the encoder
        has none (T5).
    """

    tokens: Array
    pooled: Array | None


# By the names that Hugging Face configs use.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_new": gelu_tanh,
    "quick_gelu": quick_gelu,
}


@jax.named_scope("scores")
def text_attention(
    qkv: Array,
    heads: int,
    precision: Precision,
    *,
    scale: float,
    bias: Array | None = None,
    visible: Array | None = None,
) -> Array:
    """softmax(scale q k^T + bias) v over the visible keys.

    Captions are short: the scores are kept whole, in float32.

    Args:
      qkv: (B, L, 3 * heads * d), channels [q | k | v], each heads-major.
      heads: how many.
      scale: of the products; 1 in T5, d^-1/2 elsewhere.
      bias: float32 (heads, L, L), added to the scores.
      visible: bool, broadcast to (B, heads, L, L): which keys count.

    Returns:
      (B, L, heads * d) in the activation dtype.
    """
    qkv = qkv.astype(precision.operands)
    qkv = rearrange(qkv, "b l (three h d) -> b l three h d", three=3, h=heads)
    exact = precision.operands == jnp.float32
    product = functools.partial(
        jnp.einsum,
        precision=jax.lax.Precision.HIGHEST if exact else None,
        preferred_element_type=jnp.float32,
    )
    scores = product("bqhd,bkhd->bhqk", qkv[:, :, 0], qkv[:, :, 1]) * scale
    if bias is not None:
        scores = scores + bias
    if visible is not None:
        scores = jnp.where(visible, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(precision.operands)
    out = product("bhqk,bkhd->bqhd", weights, qkv[:, :, 2])
    out = rearrange(out, "b l h d -> b l (h d)")
    return out.astype(precision.activations)
