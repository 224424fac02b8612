"""The T5 encoder: T5 v1.1 (gated GELU), and T5 (ReLU) by configuration."""

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx

from i2i_prior.models.layers import Mlp, PreNormBlock, RmsNorm, normal
from i2i_prior.models.precision import PRECISIONS, Array
from i2i_prior.models.scan import scan_blocks, stack_blocks
from i2i_prior.models.text import (
    ACTIVATIONS,
    TextAttention,
    TextFeatures,
    check_names,
)


@dataclass(frozen=True)
class T5Config:
    """Shape of a T5 encoder; the defaults are T5 v1.1 XXL."""

    vocabulary: int = 32128  # rows of the embedding
    # depth, width, heads: layers, channels D, attention heads
    depth: int = 24
    width: int = 4096
    heads: int = 64
    # Channels of a head; heads * head_width may differ from D
    head_width: int = 64
    hidden: int = 10240  # width of the MLP
    # Activation(W0 x) * (W1 x) as v1.1 has it, or activation(W x)
    gated: bool = True
    activation: str = "gelu_new"  # a name of `text.ACTIVATIONS`
    # buckets, max_distance: of the relative positions
    buckets: int = 32
    max_distance: int = 128
    epsilon: float = 1e-6  # of the norms
    # A name of `precision.PRECISIONS`. There is no float16: T5's residual
    # stream leaves its range.
    precision: str = "float32"


def relative_buckets(
    length: int, buckets: int = 32, max_distance: int = 128
) -> np.ndarray:
    """Buckets of relative positions (arXiv 1910.10683 section 2.1).

    Half of the buckets are for keys behind the query. Of each half, half are
    for one distance each, the other half grow logarithmically; the last one
    takes every distance from max_distance on. Returns int32 (length queries,
    length keys), in 0..buckets - 1.
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


def _block(config: T5Config, **options: Any) -> PreNormBlock:
    options["bias"] = False
    heads = config.heads, config.head_width
    attention = TextAttention(config.width, *heads, scale=1.0, **options)
    mlp = Mlp(
        config.width,
        config.hidden,
        config.width,
        gated=config.gated,
        activation=ACTIVATIONS[config.activation],
        **options,
    )
    norm = functools.partial(RmsNorm, config.width, config.epsilon)
    return PreNormBlock(norm, attention, mlp)


class T5Encoder(nnx.Module):
    """The encoder of T5 (arXiv 1910.10683), numbers as in transformers;
    UserError where the precision or the activation is unknown."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        check_names("T5", config.precision, config.activation)
        precision = PRECISIONS[config.precision]
        self.embedding = nnx.Param(
            normal(1.0)(rngs.params(), (config.vocabulary, config.width))
        )
        # One table for all layers; Hugging Face keeps it in the first.
        self.relative_bias = nnx.Param(
            normal(1.0)(rngs.params(), (config.buckets, config.heads))
        )
        self.blocks = stack_blocks(
            lambda rngs: _block(config, precision=precision, rngs=rngs),
            config.depth,
            rngs,
        )
        self.norm = RmsNorm(config.width, config.epsilon)
        self.config = config

    def __call__(self, ids: Array, mask: Array | None = None) -> TextFeatures:
        """ids int (B, L) -> features without a pooled vector.

        The mask, bool (B, L), is true where a token counts; None counts all.
        Padding still gets its own (meaningless) output.
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
            return block(h, visible, bias)

        h = scan_blocks(self.blocks, body, h)
        return TextFeatures(tokens=self.norm(h), pooled=None)
