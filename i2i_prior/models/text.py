"""Output and attention of both text encoders."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from i2i_prior.errors import check_known
from i2i_prior.models.layers import Linear, gelu_tanh, quick_gelu
from i2i_prior.models.precision import PRECISIONS, Array, Precision


class TextFeatures(NamedTuple):
    """Output of a text encoder."""

    tokens: Array  # float32 (B, L, D), after the last norm
    # Float32 (B, P), one vector a caption; None where the encoder has none (T5)
    pooled: Array | None


# By the names that Hugging Face configs use.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_new": gelu_tanh,
    "quick_gelu": quick_gelu,
}


def check_names(encoder: str, precision: str, activation: str) -> None:
    """Raises UserError where the precision or the activation is unknown."""
    check_known(f"{encoder} precision", precision, PRECISIONS)
    check_known(f"{encoder} activation", activation, ACTIVATIONS)


class TextAttention(nnx.Module):
    """softmax(scale q k^T + bias) v over the visible keys.

    Captions are short: the scores are kept whole, in float32. The scale is 1
    in T5, d^-1/2 elsewhere. `options` are those of `Linear`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_width: int,
        *,
        scale: float,
        precision: Precision,
        **options: Any,
    ):
        inner, options["precision"] = heads * head_width, precision
        self.qkv = Linear(width, 3 * inner, **options)
        self.out = Linear(inner, width, **options)
        self.heads = heads
        self.scale = scale
        self.precision = precision

    @jax.named_scope("attention")
    def __call__(
        self, x: Array, visible: Array | None = None, bias: Array | None = None
    ) -> Array:
        """x (B, L, D) -> (B, L, D) in the activation dtype.

        `visible`, bool, is broadcast to (B, heads, L, L): which keys count;
        `bias`, float32 (heads, L, L), is added to the scores.
        """
        return self.out(self._attend(self.qkv(x), visible, bias))

    @jax.named_scope("scores")
    def _attend(
        self, qkv: Array, visible: Array | None, bias: Array | None
    ) -> Array:
        operands = self.precision.operands
        q, k, v = (
            rearrange(part, "b l (h d) -> b l h d", h=self.heads)
            for part in jnp.split(qkv.astype(operands), 3, axis=-1)
        )
        product = functools.partial(
            jnp.einsum,
            precision="highest" if operands == jnp.float32 else None,
            preferred_element_type=jnp.float32,
        )
        scores = product("bqhd,bkhd->bhqk", q, k) * self.scale
        if bias is not None:
            scores = scores + bias
        if visible is not None:
            scores = jnp.where(visible, scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1).astype(operands)
        out = product("bhqk,bkhd->bqhd", weights, v)
        out = rearrange(out, "b l h d -> b l (h d)")
        return out.astype(self.precision.activations)
