"""Interpolation between two embeddings."""

import jax
import jax.numpy as jnp

Array = jax.Array


def lerp(start: Array, end: Array, weights: Array) -> Array:
    """Linear interpolation, (1 - w) start + w end, as Lumos does it.

    From `start` and `end`, both (M, C), and weights (F,) in [0, 1] to
    (F, M, C).
    """
    w = weights[:, None, None]
    return (1 - w) * start + w * end


def slerp(start: Array, end: Array, weights: Array) -> Array:
    """Spherical interpolation of each token (Shoemake, SIGGRAPH 1985).

    Shapes as `lerp`. Lengths are interpolated linearly. Tokens that are
    parallel, opposite or zero are lerped: the arc is not defined there.
    """
    length_start = jnp.linalg.norm(start, axis=-1, keepdims=True)
    length_end = jnp.linalg.norm(end, axis=-1, keepdims=True)
    unit_start = start / jnp.maximum(length_start, 1e-12)
    unit_end = end / jnp.maximum(length_end, 1e-12)
    cosine = jnp.clip((unit_start * unit_end).sum(-1, keepdims=True), -1, 1)
    # arccos in float32 knows angles to 5e-4 only, here.
    undefined = (1 - jnp.abs(cosine) < 1e-6) | (length_start * length_end == 0)
    angle = jnp.arccos(cosine)
    safe = jnp.where(undefined, 1.0, jnp.sin(angle))
    w = weights[:, None, None]
    direction = (
        jnp.sin((1 - w) * angle) * unit_start + jnp.sin(w * angle) * unit_end
    ) / safe
    arc = direction * ((1 - w) * length_start + w * length_end)
    return jnp.where(undefined, lerp(start, end, weights), arc)


INTERPOLATIONS = {"lerp": lerp, "slerp": slerp}
