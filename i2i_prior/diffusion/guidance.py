"""Guidance: two predictions in, one out."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from i2i_prior.diffusion.predictions import expand


def classifier_free(
    cond: jax.Array, uncond: jax.Array, scale: ArrayLike
) -> jax.Array:
    """uncond + scale (cond - uncond) (arXiv 2207.12598, in the scale's form).

    Args:
      cond, uncond: predictions of one kind, (B, ...).
      scale: scalar or (B,); 1 is `cond` to the bit, 0 is `uncond` up to
        rounding, above 1 pushes away from `uncond`.
    """
    # Written from cond, so that scale 1 does not even round.
    return cond + (expand(scale, cond) - 1.0) * (cond - uncond)


def scale_at(
    t: jax.Array, scale: ArrayLike, interval: tuple[float, float] = (0.0, 1.0)
) -> jax.Array:
    """The scale in force at times t (B,): 1 outside the interval.

    The interval is of t in [0, 1], both ends included (arXiv 2404.07724); the
    scale, a scalar or (B,), may be traced.
    """
    low, high = interval
    inside = (t >= low) & (t <= high)
    return jnp.where(inside, jnp.asarray(scale, jnp.float32), 1.0)
