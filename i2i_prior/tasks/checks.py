"""Checks of latents, timesteps and conditions that a person gives."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.models.conditioner import ConditionerConfig
from i2i_prior.models.dit_config import DiTConfig, check_inputs
from i2i_prior.models.precision import Array


def check_latents(config: DiTConfig, x: Array) -> None:
    """Raises UserError unless x is (B, H, W, C), H and W multiples of the
    patch."""
    channels, patch = config.channels, config.patch
    fits = x.ndim == 4 and x.shape[-1] == channels
    if not fits or x.shape[1] % patch or x.shape[2] % patch:
        raise UserError(
            f"latents are (B, H, W, {channels}) here, channels last and H and "
            f"W multiples of {patch}, not {x.shape}"
        )


def check_timestep(timestep: Array, batch: int) -> None:
    """Raises UserError unless there is one number for each latent."""
    if timestep.shape != (batch,):
        raise UserError(
            f"timestep is ({batch},) for {batch} latents, not {timestep.shape}"
        )


def check_conditions(
    config: DiTConfig,
    conditioner: ConditionerConfig | None,
    batch: int,
    tokens: Array | None,
    conditions: dict[str, Any],
) -> None:
    """Checks that the DiT takes these conditions, in these shapes.

    Tokens are embeddings (B, M0, C_e); `conditions` are mask, pooled, concat,
    size, aspect and null_mask by name, each an array or None.

    Raises:
      UserError: at the first that it does not take.
    """
    check_inputs(config, {**conditions, "tokens": tokens})
    shapes = {"size": (batch, 2), "aspect": (batch, 1)}
    if tokens is not None and conditioner is not None:
        width = conditioner.embedding_width
        count = tokens.shape[1] if tokens.ndim == 3 else 0
        if tokens.shape != (batch, count, width):
            raise UserError(
                f"tokens are ({batch}, M, {width}) here, not {tokens.shape}"
            )
        placed = conditioner.tokens_from in ("patches", "pyramid")
        if placed and count != conditioner.embeddings:
            raise UserError(
                f"this model takes {conditioner.embeddings} tokens, each of "
                f"its place, not {count}"
            )
        seen = (batch, count * conditioner.expand)
        shapes["mask"] = shapes["null_mask"] = seen
    for name, shape in shapes.items():
        value = conditions.get(name)
        if value is not None and value.shape != shape:
            raise UserError(f"{name} is {shape} here, not {value.shape}")
    if conditions.get("mask") is not None and tokens is None:
        raise UserError("a mask needs tokens, but none were given")
    if conditions.get("pooled") is not None:
        _check_pooled(config, batch, conditions["pooled"])


def _check_pooled(config: DiTConfig, batch: int, pooled: Array) -> None:
    if config.classes and jnp.issubdtype(pooled.dtype, jnp.integer):
        labels = np.asarray(pooled)
        if labels.shape not in ((batch,), (batch, 1)):
            raise UserError(f"labels are ({batch},) here, not {labels.shape}")
        if labels.min() < 0 or labels.max() > config.classes:
            raise UserError(
                f"labels {labels.min()}..{labels.max()} are not all in 0.."
                f"{config.classes} ({config.classes} is the null class)"
            )
        return
    width = config.classes + 1 if config.classes else config.pooled_width
    if pooled.shape != (batch, width):
        kind = "weights of classes" if config.classes else "pooled vectors"
        raise UserError(
            f"{kind} are ({batch}, {width}) here, not {pooled.shape}"
            + (", and labels are whole numbers" if config.classes else "")
        )
