"""Analytic FLOPs and parameter counts.

XLA's own count sees the body of a scan once, so it cannot be used. One
multiply-add is 2 FLOPs; norms, softmax and activations are not counted, as
in the published GMACs of DiT and Lumos.
"""

from __future__ import annotations

from i2i_prior.models.autoencoder import AutoencoderConfig, Pixels
from i2i_prior.models.dit import DiTConfig, token_count
from i2i_prior.models.families import FAMILIES, ViTConfig


def dit_macs(config: DiTConfig, condition_tokens: int) -> int:
    """Multiply-adds of one forward pass of the DiT on one example.

    Lumos-XL/2 at 256 px with one token: 137.6e9, or 118.6e9 on the fast
    path (arXiv 2412.07767, official source, counted).

    Args:
      config: the DiT; `one_token` takes the fast path.
      condition_tokens: M, 0 for none.
    """
    n, d, m = token_count(config), config.width, condition_tokens
    layer = 4 * n * d * d + 2 * n * n * d  # qkv and out; scores and sums
    if config.cross_attention and m:
        if config.one_token:
            layer += 2 * d * d  # v and out of a single row
        else:
            layer += 2 * n * d * d + 2 * m * d * d + 2 * n * m * d
    hidden = int(config.mlp_ratio * d)
    parts = 9 if config.block == "modern" and config.cross_attention else 6
    if config.block == "modern":
        hidden = 16 * round(config.mlp_ratio * d * 2 / 3 / 16)
        layer += 3 * n * d * hidden
    else:
        layer += 2 * n * d * hidden
    ends = 0
    if config.block == "pixart":
        ends += parts * d * d  # one map of the time for all layers
    else:
        layer += parts * d * d
    if config.block in ("dit", "modern"):
        ends += 2 * d * d  # the final layer's own map
    patch = config.patch**2
    ends += n * d * patch * (config.channels + config.concat_channels)
    ends += n * d * patch * config.out_channels
    ends += 256 * d + d * d  # time embedding
    if config.pooled_width:
        ends += config.pooled_width * d + d * d
    if config.size_conditions:
        third = d // 3
        ends += 3 * (256 * third + third * third)
    return config.depth * layer + ends


def vit_macs(config: ViTConfig) -> int:
    """Multiply-adds of one forward pass of an encoder on one image."""
    n, d = (config.image_size // config.patch) ** 2, config.width
    hidden = config.hidden
    tokens = n + FAMILIES[config.family].cls + config.registers
    products = 3 if config.swiglu else 2
    layer = 4 * tokens * d * d + 2 * tokens**2 * d
    layer += products * tokens * d * hidden
    return config.depth * layer + n * 3 * config.patch**2 * d


def conditioner_macs(
    embedding_width: int, width: int, embeddings: int, expand: int
) -> int:
    """Multiply-adds of expansion and projection for one example."""
    c = embedding_width
    expansion = embeddings * expand * c * c if expand > 1 else 0
    return expansion + embeddings * expand * (c * width + width * width)


def attention_macs(depth: int, queries: int, keys: int, width: int) -> int:
    """Multiply-adds of scores and weighted sums alone, in all layers."""
    return 2 * depth * queries * keys * width


def encode_macs(config: AutoencoderConfig | Pixels, image_size: int) -> int:
    """Multiply-adds of encoding one image to its latent.

    Of the encoder and its 1x1 convolution; the decoder does not train.

    Args:
      config: the latent space; none for pixels.
      image_size: side in pixels, a multiple of the factor.
    """
    if isinstance(config, Pixels):
        return 0
    if config.kind == "tiny":
        return _tiny_encoder_macs(config, image_size)
    side, before = image_size, config.widths[0]
    macs = side**2 * 9 * 3 * before
    for level, (width, blocks) in enumerate(
        zip(config.widths, config.blocks, strict=True)
    ):
        for block in range(blocks):
            macs += _residual_macs(side, width if block else before, width)
        before = width
        if level + 1 < len(config.widths):
            side //= 2
            macs += side**2 * 9 * width * width
    pixels = side**2
    macs += 2 * _residual_macs(side, before, before)
    macs += 4 * pixels * before**2 + 2 * pixels**2 * before
    macs += pixels * 9 * before * 2 * config.channels
    if config.quant_conv:
        macs += pixels * (2 * config.channels) ** 2
    return macs


def _residual_macs(side: int, inputs: int, outputs: int) -> int:
    """Two 3x3 convolutions, and a 1x1 where the width changes."""
    shortcut = 0 if inputs == outputs else inputs * outputs
    return side**2 * (9 * inputs * outputs + 9 * outputs**2 + shortcut)


def _tiny_encoder_macs(config: AutoencoderConfig, image_size: int) -> int:
    side, width = image_size, config.widths[0]
    macs = side**2 * 9 * 3 * width
    last = len(config.widths) - 1
    for level, blocks in enumerate(config.blocks):
        if level:
            side //= 2
            macs += side**2 * 9 * width**2
        each = 27 * width**2
        if config.pooled and level == last:
            each += 8 * width**2
        macs += blocks * side**2 * each
    return macs + side**2 * 9 * width * config.channels


def training_flops(forward_macs: float, frozen_macs: float = 0) -> float:
    """FLOPs of forward and backward on one example.

    A trained layer costs three forward passes (its own, and two products in
    the backward pass), a frozen one costs one. Recomputation under remat is
    not counted: it is not useful work.
    """
    return 2.0 * (3 * forward_macs + frozen_macs)
