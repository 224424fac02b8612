"""Parameters and multiply-adds of image and text encoders."""

from __future__ import annotations

from i2i_prior.flops.parts import (
    Part,
    Parts,
    attention,
    gated,
    linear,
    mlp,
    norm,
)
from i2i_prior.models.encoder_families import (
    FAMILIES,
    ViTConfig,
)
from i2i_prior.models.text_clip import ClipTextConfig
from i2i_prior.models.text_t5 import T5Config


def vit_parts(config: ViTConfig, image_size: int = 0) -> Parts:
    """The pieces of an image encoder, blocks for all layers together.

    Args:
      config: its shape.
      image_size: side in pixels of what it reads, where that is not what its
        positions are for. To interpolate them is left out: that happens once
        a batch.
    """
    family = FAMILIES[config.family]
    n = ((image_size or config.image_size) // config.patch) ** 2
    d, hidden = config.width, config.hidden
    rows = n + family.cls + config.registers
    block = {
        "norms": norm(d) * 2,
        "attention": linear(d, 3 * d, rows)
        + linear(d, d, rows)
        + attention(rows, rows, d),
        "mlp": gated(d, hidden, rows, bias=True)
        if config.swiglu
        else mlp(d, hidden, d, rows),
    }
    if family.layer_scale:
        block["scales"] = Part(2 * d)
    given = config.grid**2 + family.cls + family.cls + config.registers
    parts = {
        "patch_embed": linear(3 * config.patch**2, d, n, family.patch_bias),
        "tokens": Part(given * d),  # positions, CLS token, registers
        "norms": norm(d) * (2 if family.pre_norm else 1),
    }
    for name, part in block.items():
        parts[f"blocks/{name}"] = part * config.depth
    if family.attention_pool:
        parts["pool"] = (
            Part(d)  # the query
            + linear(d, d, 1) * 2
            + linear(d, d, n) * 2
            + attention(1, n, d)
            + norm(d)
            + mlp(d, hidden, d, 1)
        )
    if config.projection:
        parts["projection"] = linear(d, config.projection, 1, bias=False)
    return parts


def _t5_parts(config: T5Config, length: int) -> Parts:
    d, inner = config.width, config.heads * config.head_width
    fan_out = config.hidden * (2 if config.gated else 1)
    block = {
        "norms": Part(2 * d),
        "attention": linear(d, 3 * inner, length, bias=False)
        + linear(inner, d, length, bias=False)
        + attention(length, length, inner),
        "mlp": linear(d, fan_out, length, bias=False)
        + linear(config.hidden, d, length, bias=False),
    }
    parts = {
        "embedding": Part(config.vocabulary * d),
        "relative_bias": Part(config.buckets * config.heads),
        "norm": Part(d),
    }
    for name, part in block.items():
        parts[f"blocks/{name}"] = part * config.depth
    return parts


def _clip_text_parts(config: ClipTextConfig, length: int) -> Parts:
    d = config.width
    block = {
        "norms": norm(d) * 2,
        "attention": linear(d, 3 * d, length)
        + linear(d, d, length)
        # The causal mask comes after all scores.
        + attention(length, length, d),
        "mlp": mlp(d, config.hidden, d, length),
    }
    parts = {
        "embedding": Part((config.vocabulary + config.length) * d),
        "norm": norm(d),
    }
    for name, part in block.items():
        parts[f"blocks/{name}"] = part * config.depth
    if config.projection:
        parts["project"] = linear(d, config.projection, 1, bias=False)
    return parts


def text_parts(config: T5Config | ClipTextConfig, length: int) -> Parts:
    """The pieces of a text encoder on a caption padded to `length` tokens."""
    if isinstance(config, ClipTextConfig):
        return _clip_text_parts(config, length)
    return _t5_parts(config, length)
