"""Text encoder of CLIP: a causal transformer."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from i2i_prior.errors import UserError
from i2i_prior.models.layers import LayerNorm, Linear, Mlp, PreNormBlock, normal
from i2i_prior.models.precision import PRECISIONS, Array
from i2i_prior.models.scan import scan_blocks, stack_blocks
from i2i_prior.models.text import (
    ACTIVATIONS,
    TextAttention,
    TextFeatures,
    check_names,
)


@dataclass(frozen=True)
class ClipTextConfig:
    """Shape of a CLIP text encoder; the defaults are OpenAI's ViT-L/14."""

    vocabulary: int = 49408  # rows of the token embedding
    length: int = 77  # rows of the position table, the longest text
    # depth, width, heads: layers, channels D, attention heads
    depth: int = 12
    width: int = 768
    heads: int = 12
    hidden: int = 3072  # width of the MLP
    # Width P of the pooled vector; 0 leaves it as it is (P = D)
    projection: int = 768
    # Id of the token that ends a text. None where it is the largest id of the
    # vocabulary, as in CLIP's own.
    end: int | None = None
    activation: str = "quick_gelu"  # a name of `text.ACTIVATIONS`
    epsilon: float = 1e-5  # of the norms
    precision: str = "float32"  # a name of `precision.PRECISIONS`


def _block(config: ClipTextConfig, **options: Any) -> PreNormBlock:
    head_width = config.width // config.heads
    attention = TextAttention(
        config.width,
        config.heads,
        head_width,
        scale=head_width**-0.5,
        **options,
    )
    activation = ACTIVATIONS[config.activation]
    sizes = config.width, config.hidden, config.width
    mlp = Mlp(*sizes, activation=activation, **options)
    norm = functools.partial(LayerNorm, config.width, config.epsilon)
    return PreNormBlock(norm, attention, mlp)


class ClipTextEncoder(nnx.Module):
    """The text tower of CLIP (arXiv 2103.00020 section 2.4).

    UserError where the heads do not divide the width, or the precision or the
    activation is unknown.
    """

    def __init__(self, config: ClipTextConfig, *, rngs: nnx.Rngs):
        check_names("CLIP text", config.precision, config.activation)
        if config.width % config.heads:
            raise UserError(
                f"CLIP text: {config.heads} heads do not divide the width "
                f"{config.width}; give the right number of heads"
            )
        precision = PRECISIONS[config.precision]
        self.embedding = nnx.Param(
            normal(0.02)(rngs.params(), (config.vocabulary, config.width))
        )
        self.positions = nnx.Param(
            normal(0.01)(rngs.params(), (config.length, config.width))
        )
        self.blocks = stack_blocks(
            lambda rngs: _block(config, precision=precision, rngs=rngs),
            config.depth,
            rngs,
        )
        self.norm = LayerNorm(config.width, config.epsilon)
        options: Any = {"bias": False, "rngs": rngs, "precision": precision}
        size = config.projection
        self.project = Linear(config.width, size, **options) if size else None
        self.config = config

    def __call__(self, ids: Array, mask: Array | None = None) -> TextFeatures:
        """Encodes captions.

        The ids are int (B, L), L at most `length`; the mask is bool (B, L),
        true where a token counts; None counts all. A token never sees those
        behind it, so padding after a text changes only the outputs at the
        padding; Stable Diffusion gives none.

        The pooled vector is the output at the first end token (at the first
        token, where a text holds none), projected. UserError where the text is
        longer than the position table.
        """
        config = self.config
        length = ids.shape[1]
        if length > config.length:
            raise UserError(
                f"{length} tokens are more than the {config.length} positions "
                "of this CLIP text encoder; cut the captions shorter"
            )
        h = self.embedding[...][ids] + self.positions[...][:length]
        h = h.astype(PRECISIONS[config.precision].activations)
        visible = jnp.asarray(np.tri(length, dtype=bool))[None, None]
        if mask is not None:
            visible = visible & mask[:, None, None, :]

        def body(h: Array, block: nnx.Module) -> Array:
            return block(h, visible)

        tokens = self.norm(scan_blocks(self.blocks, body, h))
        ends = ids if config.end is None else ids == config.end
        rows = jnp.arange(ids.shape[0])
        pooled = tokens[rows, jnp.argmax(ends, axis=-1)]
        if self.project is not None:
            with jax.named_scope("project"):
                pooled = self.project(pooled).astype(jnp.float32)
        return TextFeatures(tokens=tokens, pooled=pooled)
