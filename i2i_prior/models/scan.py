"""Patches, and layers stacked on one axis: built by vmap, run by scan."""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from i2i_prior.models.attention_kernels import keep_cudnn
from i2i_prior.models.layers import ATTENTION, DOT, HIDDEN
from i2i_prior.models.precision import Array
from i2i_prior.parallel.constraints import mesh_in_use
from i2i_prior.parallel.sharding import GATHERED, gather_layer

_policies = jax.checkpoint_policies


def _keep(*names: str) -> Any:
    return _policies.save_from_both_policies(
        _policies.save_only_these_names(*names), keep_cudnn
    )


def _all_but_gathered(primitive: Any, *inputs: Any, **parameters: Any) -> bool:
    """Remat policy: keep everything except gathered kernels.

    To refuse the name alone is not enough: `gather`, which goes into it and
    is the one custom derivative of a single array, would be kept instead.
    """
    if primitive.name == "name":
        return parameters["name"] != GATHERED
    return primitive.name != "custom_vjp_call" or len(inputs) > 1


# What a block's forward pass keeps for its backward pass. Gathered kernels
# are never kept: the backward pass gathers again.
REMAT_POLICIES = {
    "none": _all_but_gathered,
    "full": _policies.nothing_saveable,
    # N x D a layer: softmax and its two products are not computed again.
    "attention": _keep(ATTENTION),
    # N x 5 D: nor is the first half of the MLP.
    "hidden": _keep(ATTENTION, HIDDEN),
    # N x 10 D and more: nor is any matrix product; norms and gates are.
    "dots": _keep(ATTENTION, DOT),
}


def patchify(x: Array, patch: int) -> Array:
    """(B, H, W, C) -> (B, H/p * W/p, p * p * C), row-major, (p, q, c)."""
    return rearrange(x, "b (h p) (w q) c -> b (h w) (p q c)", p=patch, q=patch)


def unpatchify(tokens: Array, grid: tuple[int, int], patch: int) -> Array:
    """(B, h * w, p * p * C) -> (B, h p, w p, C), inverse of `patchify`."""
    pattern = "b (h w) (p q c) -> b (h p) (w q) c"
    return rearrange(tokens, pattern, h=grid[0], p=patch, q=patch)


def stack_blocks(make, depth: int, rngs: nnx.Rngs) -> nnx.Module:
    """Builds `depth` layers as one module with a leading layer axis."""

    @nnx.split_rngs(splits=depth)
    @nnx.vmap(in_axes=0, out_axes=0)
    def build(rngs: nnx.Rngs):
        return make(rngs)

    return build(rngs)


def scan_blocks(
    blocks,
    body,
    x: Array,
    remat: str = "none",
    unroll: int = 1,
    name: str = "",
    operands: Any = jnp.float32,
) -> Array:
    """Runs x through stacked layers: body(x, block) -> x, one scan.

    `blocks` are of `stack_blocks`, `remat` is a name of REMAT_POLICIES,
    `unroll` the number of layers per iteration. By the stack's `name`, as
    "dit/blocks", sharded parameters are gathered, each layer's inside its own
    iteration; "" leaves them as they are. Matmuls of the layers round to the
    dtype `operands`.
    """

    def step(carry, block):
        if name:
            block = gather_layer(block, name, operands)
        return body(carry, block), None

    mesh = mesh_in_use()
    gathers = bool(name) and mesh is not None and mesh.size > 1
    if remat != "none" or gathers:
        step = jax.checkpoint(
            step, policy=REMAT_POLICIES[remat], prevent_cse=False
        )
    with jax.named_scope("blocks"):
        return jax.lax.scan(step, x, blocks, unroll=unroll)[0]
