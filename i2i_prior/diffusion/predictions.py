"""Kinds of predictions of a network, and conversions between them.

With x_t = alpha x0 + sigma eps:

- `eps`: the noise (DDPM, arXiv 2006.11239);
- `x0`: the data;
- `v` = alpha eps - sigma x0 (Salimans and Ho, arXiv 2202.00512);
- `velocity` = eps - x0. On the flow path this is dx_t/dt (arXiv 2209.03003).
  On ddpm paths it is the same difference, not a time derivative: a bounded
  target that is well conditioned at both ends.

`v` and `velocity` determine x0 and eps everywhere. `eps` does not determine
x0 where alpha = 0, nor `x0` eps where sigma = 0: there the divisor is held at
1e-6, so the answer is finite, and means nothing.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from i2i_prior.errors import check_known

PREDICTIONS = ("eps", "x0", "v", "velocity")

SMALLEST_DIVISOR = 1e-6


def expand(scale: ArrayLike, like: jax.Array) -> jax.Array:
    """A scalar or (B,) as float32 that broadcasts against (B, ...)."""
    scale = jnp.asarray(scale, jnp.float32)
    if scale.ndim == 1:
        return scale.reshape(scale.shape + (1,) * (like.ndim - 1))
    return scale


def to_x0_eps(
    value: jax.Array,
    x_t: jax.Array,
    alpha: ArrayLike,
    sigma: ArrayLike,
    source: str,
) -> tuple[jax.Array, jax.Array]:
    """The data and the noise that a prediction of kind `source` stands for.

    Args:
      value: the prediction, (B, ...).
      x_t: the noisy input, (B, ...).
      alpha, sigma: scalars, (B,), or anything that broadcasts to x_t.
      source: one of `PREDICTIONS`.

    Returns:
      estimates of x0 and of eps, float32 (B, ...).

    Raises:
      UserError: for an unknown kind.
    """
    check_known("prediction", source, PREDICTIONS)
    value, x_t = value.astype(jnp.float32), x_t.astype(jnp.float32)
    alpha, sigma = expand(alpha, x_t), expand(sigma, x_t)
    if source == "x0":
        noise = x_t - alpha * value
        return value, noise / jnp.maximum(sigma, SMALLEST_DIVISOR)
    if source == "eps":
        data = x_t - sigma * value
        return data / jnp.maximum(alpha, SMALLEST_DIVISOR), value
    if source == "v":
        x0 = (alpha * x_t - sigma * value) / (alpha**2 + sigma**2)
        return x0, (sigma * x_t + alpha * value) / (alpha**2 + sigma**2)
    x0 = (x_t - sigma * value) / (alpha + sigma)
    return x0, (x_t + alpha * value) / (alpha + sigma)


def from_x0_eps(
    x0: jax.Array,
    eps: jax.Array,
    alpha: ArrayLike,
    sigma: ArrayLike,
    target: str,
) -> jax.Array:
    """The prediction of kind `target` for this data and noise, (B, ...)."""
    check_known("prediction", target, PREDICTIONS)
    alpha, sigma = expand(alpha, x0), expand(sigma, x0)
    if target == "x0":
        return x0
    if target == "eps":
        return eps
    if target == "v":
        return alpha * eps - sigma * x0
    return eps - x0
