"""Layers that all families of blocks share: modulation, sharded activations.

`ratio` in the blocks is muP's, base width / width (`models.mup`): tables start
as those of the base width.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from i2i_prior.models.dit_config import DiTConfig
from i2i_prior.models.layers import Linear, layer_norm, modulate, zeros
from i2i_prior.models.precision import PRECISIONS, Array
from i2i_prior.parallel.constraints import TOKENS, constrain
from i2i_prior.parallel.mesh import BATCH, CONTEXT, FSDP, REPLICA
from i2i_prior.parallel.sharding import ALL


def scatter(h: Array) -> Array:
    """Shards the tokens of the residual stream (B, N, D) on context, tensor."""
    return constrain(h, BATCH, TOKENS)


def gather(x: Array) -> Array:
    """Shards the tokens of a sublayer's input (B, N, D) on context only."""
    # Scattered once more in this dtype: else float32 would travel.
    return constrain(scatter(x), BATCH, CONTEXT)


def modulations(linear: Linear, time: Array) -> Array:
    """Linear map of silu(time), (B, D) -> (B, parts * D).

    A third of a block's weights for one row an image: sharded, every device
    maps the rows of its whole replica through its own columns, and the rows
    go back to their devices. The kernel is not gathered.
    """
    rows = constrain(jax.nn.silu(time), REPLICA)
    y = constrain(linear(rows), REPLICA, ALL)
    # In steps of one collective each: asked for at once, the compiler sums
    # the rows of all chips on all chips.
    return constrain(constrain(y, REPLICA, FSDP), BATCH)


class AdaFinalLayer(nnx.Module):
    """Norm modulated by a linear map of silu(time), zero at the start.

    With LayerNorm this is DiT's, with RMSNorm the modern one.
    """

    def __init__(
        self,
        config: DiTConfig,
        *,
        rngs: nnx.Rngs,
        norm: Callable[[Array], Array] = layer_norm,
    ):
        options: dict[str, Any] = {
            "rngs": rngs,
            "precision": PRECISIONS[config.precision],
            "init": zeros,
        }
        self.modulation = Linear(config.width, 2 * config.width, **options)
        self.out = Linear(config.width, config.patch_outputs, **options)
        self.norm = norm

    def __call__(self, h: Array, time: Array) -> Array:
        """h (B, N, D), time (B, D) -> (B, N, outputs)."""
        shift, scale = jnp.split(self.modulation(jax.nn.silu(time)), 2, -1)
        return self.out(modulate(self.norm(h), shift, scale))
