"""Stochastic rounding of states that are kept in bfloat16.

An average that moves by less than half a unit in the last place (a decay of
0.9999 moves by 1e-4 of the distance, bfloat16 resolves 2^-8) does not move at
all when it is rounded to the nearest. Rounded up with the probability of the
part that is cut off, it is unbiased (Gupta et al., arXiv 1502.02551 section
3). All computation is in float32; only the stored state is bfloat16.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

# Dtypes of a stored state; parameters always stay float32.
STATE_DTYPES = ("float32", "bfloat16")


def round_stochastically(x: jax.Array, key: jax.Array) -> jax.Array:
    """Rounds float32 to one of the two bfloat16 neighbours, unbiased.

    The draws depend on key and shape alone, not on the sharding of x. Values
    that bfloat16 can hold are unchanged, infinities and NaN among them.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    # bfloat16 is the upper half of a float32: a uniform draw on the lower
    # half carries into the upper with the probability that is needed.
    chance = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    upper = ((bits + chance) >> 16).astype(jnp.uint16)
    rounded = jax.lax.bitcast_convert_type(upper, jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))


def widen(tree: Any) -> Any:
    """Casts bfloat16 leaves to float32, exactly; leaves others unchanged."""
    return jax.tree.map(
        lambda a: a.astype(jnp.float32) if a.dtype == jnp.bfloat16 else a, tree
    )


def narrow(tree: Any, like: Any, key: jax.Array) -> Any:
    """Rounds the leaves that are bfloat16 in `like`, each with its own draws.

    Args:
      tree: float32 (or integer) leaves.
      like: the same tree in the target dtypes.
      key: of this step and this tree.
    """
    leaves, treedef = jax.tree.flatten(tree)
    kept = [
        round_stochastically(leaf, jax.random.fold_in(key, number))
        if old.dtype == jnp.bfloat16
        else leaf
        for number, (leaf, old) in enumerate(
            zip(leaves, jax.tree.leaves(like), strict=True)
        )
    ]
    return jax.tree.unflatten(treedef, kept)


def keep_in_bfloat16(
    transform: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer so that its float32 state is kept in bfloat16.

    `update` takes the step's random key as `key`.
    """
    transform = optax.with_extra_args_support(transform)

    def init(params: Any) -> Any:
        return jax.tree.map(
            lambda a: a.astype(jnp.bfloat16) if a.dtype == jnp.float32 else a,
            transform.init(params),
        )

    def update(grads: Any, state: Any, params: Any = None, **extra: Any):
        updates, new = transform.update(grads, widen(state), params, **extra)
        return updates, narrow(new, state, extra["key"])

    return optax.GradientTransformationExtraArgs(init, update)
