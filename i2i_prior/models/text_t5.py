"""The T5 encoder: T5 v1.1 (gated GELU), and T5 (ReLU) by configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from i2i_prior.errors import UserError
from i2i_prior.models.layers import Linear, normal, rms_norm
from i2i_prior.models.precision import PRECISIONS, Array, Precision
from i2i_prior.models.scan import scan_blocks, stack_blocks
from i2i_prior.models.text import ACTIVATIONS, TextFeatures, text_attention


@dataclass(frozen=True)
class T5Config:
    """Shape of a T5 encoder; the defaults are T5 v1.1 XXL.

    Attributes:
      vocabulary: rows of the embedding.
      depth, width, heads: layers, channels D, attention heads.
      head_width: channels of a head; heads * head_width may differ from D.
      hidden: width of the MLP.
      gated: activation(W0 x) * (W1 x) as v1.1 has it, or activation(W x).
      activation: a name of `text.ACTIVATIONS`.
      buckets, max_distance: of the relative positions.
      epsilon: of the norms.
      precision: a name of `precision.PRECISIONS`. There is no float16: T5's
        residual stream leaves its range.
    """

    vocabulary: int = 32128
    depth: int = 24
    width: int = 4096
    heads: int = 64
    head_width: int = 64
    hidden: int = 10240
    gated: bool = True
    activation: str = "gelu_new"
    buckets: int = 32
    max_distance: int = 128
    epsilon: float = 1e-6
    precision: str = "float32"


def relative_buckets(
    length: int, buckets: int = 32, max_distance: int = 128
) -> np.ndarray:
    """Buckets of relative positions (arXiv 1910.10683 section 2.1).

    Half of the buckets are for keys behind the query. Of each half, half are
    for one distance each, the other half grow logarithmically; the last one
    takes every distance from max_distance on.

    Returns:
      int32 (length queries, length keys), values in 0..buckets - 1.
    """
    positions = np.arange(length)
    offset = positions[None, :] - positions[:, None]  # key - query
    half = buckets // 2
    exact = half // 2
    distance = np.abs(offset)
    # In float32, as T5 was trained: bucket edges lie on whole distances, so
    # another rounding could move one.
    far = np.maximum(distance, 1).astype(np.float32) / np.float32(exact)
    grown = np.log(far) / np.float32(math.log(max_distance / exact))
    grown = exact + (grown * np.float32(half - exact)).astype(np.int32)
    bucket = np.where(distance < exact, distance, np.minimum(grown, half - 1))
    return (bucket + half * (offset > 0)).astype(np.int32)


class RmsNorm(nnx.Module):
    """RMSNorm with gain, in float32."""

    def __init__(self, width: int, epsilon: float):
        self.gain = nnx.Param(jnp.ones((width,)))
        self.epsilon = epsilon

    def __call__(self, x: Array) -> Array:
        """x (..., width) -> float32 (..., width)."""
        return rms_norm(x, self.epsilon) * self.gain[...]


class T5Attention(nnx.Module):
    """Self-attention without biases and without 1 / sqrt(d)."""

    def __init__(
        self, config: T5Config, precision: Precision, *, rngs: nnx.Rngs
    ):
        inner = config.heads * config.head_width
        options: dict[str, Any] = {"rngs": rngs, "precision": precision}
        self.qkv = Linear(config.width, 3 * inner, bias=False, **options)
        self.out = Linear(inner, config.width, bias=False, **options)
        self.heads = config.heads
        self.precision = precision

    @jax.named_scope("attention")
    def __call__(self, x: Array, bias: Array, visible: Array | None) -> Array:
        """x (B, L, D), bias (heads, L, L), visible (B, 1, 1, L)."""
        out = text_attention(
            self.qkv(x),
            self.heads,
            self.precision,
            scale=1.0,
            bias=bias,
            visible=visible,
        )
        return self.out(out)


class T5Mlp(nnx.Module):
    """The MLP of T5, or of T5 v1.1 with its gate (arXiv 2002.05202)."""

    def __init__(
        self, config: T5Config, precision: Precision, *, rngs: nnx.Rngs
    ):
        options: dict[str, Any] = {
            "rngs": rngs,
            "precision": precision,
            "bias": False,
        }
        inner = config.hidden * (2 if config.gated else 1)
        self.fc1 = Linear(config.width, inner, **options)
        self.fc2 = Linear(config.hidden, config.width, **options)
        self.gated = config.gated
        self.activation = ACTIVATIONS[config.activation]

    @jax.named_scope("mlp")
    def __call__(self, x: Array) -> Array:
        """x (B, L, D) -> (B, L, D)."""
        h = self.fc1(x)
        if not self.gated:
            return self.fc2(self.activation(h))
        gate, value = jnp.split(h, 2, axis=-1)
        return self.fc2(self.activation(gate) * value)


class T5Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(
        self, config: T5Config, precision: Precision, *, rngs: nnx.Rngs
    ):
        self.norm1 = RmsNorm(config.width, config.epsilon)
        self.attention = T5Attention(config, precision, rngs=rngs)
        self.norm2 = RmsNorm(config.width, config.epsilon)
        self.mlp = T5Mlp(config, precision, rngs=rngs)

    def __call__(self, h: Array, bias: Array, visible: Array | None) -> Array:
        """h (B, L, D) -> (B, L, D)."""
        normed = self.norm1(h).astype(h.dtype)
        h = h + self.attention(normed, bias, visible)
        return h + self.mlp(self.norm2(h).astype(h.dtype))


class T5Encoder(nnx.Module):
    """The encoder of T5 (arXiv 1910.10683), numbers as in transformers.

    Raises:
      UserError: where the precision or the activation is unknown.
    """

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        for name, value, known in (
            ("precision", config.precision, PRECISIONS),
            ("activation", config.activation, ACTIVATIONS),
        ):
            if value not in known:
                raise UserError(
                    f"T5 {name} {value!r} is unknown; choose one of "
                    f"{', '.join(known)}"
                )
        precision = PRECISIONS[config.precision]
        self.embedding = nnx.Param(
            normal(1.0)(rngs.params(), (config.vocabulary, config.width))
        )
        # One table for all layers; Hugging Face keeps it in the first.
        self.relative_bias = nnx.Param(
            normal(1.0)(rngs.params(), (config.buckets, config.heads))
        )
        self.blocks = stack_blocks(
            lambda rngs: T5Block(config, precision, rngs=rngs),
            config.depth,
            rngs,
        )
        self.norm = RmsNorm(config.width, config.epsilon)
        self.config = config

    def __call__(self, ids: Array, mask: Array | None = None) -> TextFeatures:
        """Encodes captions.

        Args:
          ids: int (B, L).
          mask: bool (B, L), true where a token counts; None counts all.
            Padding still gets its own (meaningless) output.

        Returns:
          `TextFeatures` without a pooled vector.
        """
        config = self.config
        h = self.embedding[...][ids]
        h = h.astype(PRECISIONS[config.precision].activations)
        buckets = relative_buckets(
            ids.shape[1], config.buckets, config.max_distance
        )
        bias = self.relative_bias[...][buckets].transpose(2, 0, 1)
        visible = None if mask is None else mask[:, None, None, :]

        def body(h: Array, block: nnx.Module) -> Array:
            return block(h, bias, visible)

        h = scan_blocks(self.blocks, body, h)
        return TextFeatures(tokens=self.norm(h), pooled=None)
