"""Patches, and layers stacked on one axis: built by vmap, run by scan."""

from __future__ import annotations

import jax
from einops import rearrange
from flax import nnx

from i2i_prior.models.layers import Array

# What a block's forward pass keeps for its backward pass.
REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def patchify(x: Array, patch: int) -> Array:
    """(B, H, W, C) -> (B, H/p * W/p, p * p * C), row-major, (p, q, c)."""
    return rearrange(x, "b (h p) (w q) c -> b (h w) (p q c)", p=patch, q=patch)


def unpatchify(tokens: Array, grid: tuple[int, int], patch: int) -> Array:
    """(B, h * w, p * p * C) -> (B, h p, w p, C), inverse of `patchify`."""
    return rearrange(
        tokens,
        "b (h w) (p q c) -> b (h p) (w q) c",
        h=grid[0],
        p=patch,
        q=patch,
    )


def stack_blocks(make, depth: int, rngs: nnx.Rngs) -> nnx.Module:
    """Builds `depth` layers as one module with a leading layer axis."""

    @nnx.split_rngs(splits=depth)
    @nnx.vmap(in_axes=0, out_axes=0)
    def build(rngs: nnx.Rngs):
        return make(rngs)

    return build(rngs)


def scan_blocks(blocks, body, x: Array, remat: str, unroll: int) -> Array:
    """Runs x through stacked layers: body(x, block) -> x, one scan."""

    def step(carry, block):
        return body(carry, block), None

    if REMAT_POLICIES[remat] is not None:
        step = jax.checkpoint(
            step, policy=REMAT_POLICIES[remat], prevent_cse=False
        )
    return jax.lax.scan(step, x, blocks, unroll=unroll)[0]
