"""Conditions of a sample, and the null half of classifier-free guidance."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from i2i_prior.errors import UserError
from i2i_prior.models.conditioner import Conditioner
from i2i_prior.models.precision import Array


class Conditions(NamedTuple):
    """Conditions other than tokens; None where the model takes none."""

    mask: Array | None = None  # bool (B, M), true where a token counts
    pooled: Array | None = None  # (B, P), or class labels int (B,)
    concat: Array | None = None  # (B, H, W, K)
    size: Array | None = None  # (B, 2), image height and width in pixels
    aspect: Array | None = None  # (B, 1), height / width
    # (M, C) or (B, M, C), in place of the model's own null
    null_tokens: Array | None = None
    null_mask: Array | None = None  # bool (B, M), the null half's mask

    def doors(self) -> dict[str, Any]:
        """Keyword arguments of the DiT for the conditional half."""
        names = ("mask", "pooled", "concat", "size", "aspect")
        return {name: getattr(self, name) for name in names}


def with_null(
    conditions: Conditions,
    tokens: Array | None,
    null: Array | None,
    *,
    classes: int,
    null_mask: str,
) -> tuple[Array | None, dict[str, Any]]:
    """Joins the conditional and the null half into one batch of 2 B.

    Args:
      conditions, tokens: of the conditional half, tokens (B, M, D).
      null: (B, M, D), the projected null tokens.
      classes: number of classes; the label `classes` is the null class.
        The null of the concat door is zero.
      null_mask: "full", the null half sees all null tokens; "caption", it
        sees as many as the caption has, as the official text-to-image
        sampler of Lumos and PixArt-alpha does.

    Returns:
      tokens (2 B, M, D), and the other doors' arguments.

    Raises:
      UserError: for a vector through the pooled door, which has no null.
    """
    doors = conditions.doors()
    for name in ("size", "aspect"):
        if (value := doors[name]) is not None:
            doors[name] = jnp.concatenate([value, value])
    if (concat := conditions.concat) is not None:
        doors["concat"] = jnp.concatenate([concat, jnp.zeros_like(concat)])
    mask = conditions.mask
    if mask is not None or conditions.null_mask is not None:
        assert tokens is not None
        everything = jnp.ones(tokens.shape[:2], bool)
        first = everything if mask is None else mask.astype(bool)
        second = everything if null_mask == "full" else first
        if conditions.null_mask is not None:
            second = jnp.broadcast_to(
                conditions.null_mask.astype(bool), everything.shape
            )
        doors["mask"] = jnp.concatenate([first, second])
    pooled = conditions.pooled
    if pooled is not None:
        if not classes:
            raise UserError(
                "a pooled vector has no null to guide against; sample with "
                "guidance=1"
            )
        if jnp.issubdtype(pooled.dtype, jnp.integer):
            null_pooled = jnp.full_like(pooled, classes)
        else:
            null_pooled = jnp.zeros_like(pooled).at[:, classes].set(1)
        doors["pooled"] = jnp.concatenate([pooled, null_pooled])
    if tokens is None or null is None:
        return None, doors
    return jnp.concatenate([tokens, null]), doors


def null_tokens(
    conditioner: Conditioner | None, tokens: Array | None, given: Array | None
) -> Array | None:
    """The null half's projected tokens, (B, M, D).

    `tokens` are the embeddings (B, M0, C) of the conditional half; `given`,
    (M0, C) or (B, M0, C), takes the place of the conditioner's null.

    Raises:
      UserError: where there is no null, or one of another length.
    """
    if tokens is None or conditioner is None:
        return None
    batch = tokens.shape[0]
    if given is None:
        null = conditioner.null_embeddings(batch)
    else:
        null = jnp.broadcast_to(given, (batch, *given.shape[-2:]))
    if null.shape != tokens.shape:
        raise UserError(
            f"guidance needs {null.shape[1]} tokens of {null.shape[2]} "
            f"channels, as the null has, not {tokens.shape[1]} of "
            f"{tokens.shape[2]}; pad them and give a mask"
        )
    return conditioner(null)
