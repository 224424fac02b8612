"""Parameters and multiply-adds of the DiT and the conditioner."""

from __future__ import annotations

from i2i_prior.flops.parts import (
    Part,
    Parts,
    attention,
    gated,
    linear,
    mlp,
    untrained,
    unused,
)
from i2i_prior.models.conditioner import PYRAMID, ConditionerConfig
from i2i_prior.models.dit_config import DiTConfig, token_count

SINUSOIDS = 256  # features of a timestep, an image size or an aspect ratio


def mlp_hidden(config: DiTConfig) -> int:
    """Hidden channels of a block's MLP; of both halves of a gated one."""
    if config.block == "modern":
        return 2 * 16 * round(config.mlp_ratio * config.width * 2 / 3 / 16)
    return int(config.mlp_ratio * config.width)


def dit_parts(config: DiTConfig, condition_tokens: int) -> Parts:
    """The pieces of a DiT, those of the blocks for all layers together.

    Args:
      config: its shape; `one_token` takes the fast path where there is one
        condition token, and freezes the queries and keys it leaves unused.
      condition_tokens: M, 0 for none.
    """
    n, d = token_count(config), config.width
    patch = config.patch**2
    parts = {
        "patch_embed": linear(
            patch * (config.channels + config.concat_channels), d, n
        ),
        "time_embed": mlp(SINUSOIDS, d, d, 1),
    }
    if config.classes:  # a row is looked up
        parts["pooled_embed"] = Part((config.classes + 1) * d)
    elif config.pooled_width:
        parts["pooled_embed"] = mlp(config.pooled_width, d, d, 1)
    if config.size_conditions:
        # Height and width through one MLP, the aspect ratio through another.
        third = d // 3
        parts["size_embed"] = mlp(SINUSOIDS, third, third, 2) + mlp(
            SINUSOIDS, third, third, 1
        )
    if config.block == "pixart":  # one map of the time for all layers
        parts["time_modulation"] = linear(d, 6 * d, 1)
    for name, part in _block(config, n, condition_tokens).items():
        parts[f"blocks/{name}"] = part * config.depth
    out = linear(d, patch * config.out_channels, n)
    if config.block in ("dit", "modern"):
        parts["final"] = out + linear(d, 2 * d, 1)
    else:
        parts["final"] = out + Part(2 * d)
    return parts


def _block(config: DiTConfig, n: int, m: int) -> Parts:
    d, modern = config.width, config.block == "modern"
    head = d // config.heads
    norms = Part()
    if modern:
        norms = Part(2 * head)  # a gain each for queries and keys
    elif config.qk_norm:
        norms = Part(4 * head)
    parts: Parts = {}
    if config.block == "pixart":
        parts["table"] = Part(6 * d)
    else:
        pieces = 9 if modern and config.cross_attention else 6
        parts["modulation"] = linear(d, pieces * d, 1)
    bias = not modern
    parts["attention"] = (
        linear(d, 3 * d, n, bias)
        + linear(d, d, n, bias)
        + attention(n, n, d)
        + norms
    )
    if config.cross_attention:
        # Without qk_norm here: Lumos' cross-attention never has it.
        parts["cross_attention"] = _cross_attention(
            config, n, m, norms if modern else Part()
        )
    hidden = mlp_hidden(config)
    parts["mlp"] = gated(d, hidden // 2, n) if modern else mlp(d, hidden, d, n)
    return parts


def _cross_attention(config: DiTConfig, n: int, m: int, norms: Part) -> Part:
    d, bias = config.width, config.block != "modern"
    one = config.one_token and m == 1
    queries = linear(d, d, n, bias) + linear(d, d, m, bias) + norms
    if config.one_token:
        queries = untrained(queries)
    values = linear(d, d, m, bias) + linear(d, d, 1 if one else n, bias)
    if one:
        return unused(queries) + values
    both = queries + values + attention(n, m, d)
    return both if m else unused(both)


def conditioner_parts(config: ConditionerConfig) -> Parts:
    """The pieces of a conditioner."""
    c, d = config.embedding_width, config.width
    parts: Parts = {}
    if config.null != "given":
        null = Part(config.embeddings * c)
        parts["null"] = untrained(null) if config.null == "random" else null
    if config.tokens_from == "pyramid":  # averages, as a product with a matrix
        cells = sum(side**2 for side in PYRAMID)
        parts["pyramid"] = Part(0, cells * config.patches * c)
    if config.expand > 1:
        parts["expand"] = linear(c, config.expand * c, config.embeddings)
    parts["project"] = mlp(c, d, d, config.tokens)
    return parts
