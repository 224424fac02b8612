"""Embeddings that are added to the time's: classes, vectors, image sizes."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from i2i_prior.models.layers import embedding_mlp, normal, sinusoid
from i2i_prior.models.precision import Array


class ClassTable(nnx.Module):
    """One learned vector a class, the last for the null class (DiT)."""

    def __init__(self, rows: int, width: int, *, rngs: nnx.Rngs):
        self.table = nnx.Param(normal(0.02)(rngs.params(), (rows, width)))

    def __call__(self, labels: Array) -> Array:
        """labels int (B,) or (B, 1), or weights float (B, rows) -> (B, D)."""
        table = self.table[...]
        if jnp.issubdtype(labels.dtype, jnp.integer):
            return table[labels.reshape(-1)]
        return labels @ table


class SizeEmbedder(nnx.Module):
    """Image size and aspect ratio -> (B, width), a third for each number.

    `options` are those of `layers.embedding_mlp`.

    PixArt-alpha's micro-conditions (arXiv 2310.00426 section 2.4, official
    code): every number goes through 256 sinusoids and an MLP of its kind.
    """

    def __init__(self, width: int, **options: Any):
        self.size = embedding_mlp(256, width // 3, **options)
        self.aspect = embedding_mlp(256, width // 3, **options)

    def __call__(self, size: Array, aspect: Array) -> Array:
        """size (B, 2) pixels, aspect (B, 1) -> (B, width)."""
        batch = size.shape[0]
        embedded = self.size(sinusoid(size.reshape(-1)))
        ratio = self.aspect(sinusoid(aspect.reshape(-1)))
        return jnp.concatenate([embedded.reshape(batch, -1), ratio], axis=-1)
