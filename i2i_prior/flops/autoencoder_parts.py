"""Parameters and multiply-adds of the frozen autoencoders."""

from __future__ import annotations

import functools

from i2i_prior.flops.parts import (
    Part,
    Parts,
    attention,
    conv,
    linear,
    norm,
)
from i2i_prior.models.autoencoder import (
    Pixels,
)
from i2i_prior.models.autoencoder_config import (
    AutoencoderConfig,
)


@functools.lru_cache(maxsize=64)
def _parts(config: AutoencoderConfig, side: int) -> tuple[Part, Part]:
    if config.kind == "tiny":
        return _tiny_encoder(config, side), _tiny_decoder(config, side)
    return _encoder(config, side), _decoder(config, side)


def autoencoder_parts(
    config: AutoencoderConfig | Pixels, image_size: int
) -> Parts:
    """Encoder and decoder, each with its 1x1 convolution; none for pixels.

    Args:
      config: the latent space.
      image_size: side in pixels, a multiple of the factor.
    """
    if isinstance(config, Pixels):
        return {}
    encoder, decoder = _parts(config, image_size)
    parts = {"encoder": encoder, "decoder": decoder}
    if config.kind == "kl" and config.batch_norm:
        parts["statistics"] = Part(8 * config.channels)
    return parts


def _residual(side: int, inputs: int, outputs: int) -> Part:
    pixels = side**2
    part = norm(inputs) + conv(inputs, outputs, 3, pixels)
    part = part + norm(outputs) + conv(outputs, outputs, 3, pixels)
    return (
        part if inputs == outputs else part + conv(inputs, outputs, 1, pixels)
    )


def _middle(side: int, width: int) -> Part:
    pixels = side**2
    attended = linear(width, width, pixels) * 4 + norm(width)
    return (
        _residual(side, width, width) * 2
        + attended
        + attention(pixels, pixels, width)
    )


def _encoder(config: AutoencoderConfig, side: int) -> Part:
    widths = config.widths
    before = widths[0]
    part = conv(3, before, 3, side**2)
    for level, width in enumerate(widths):
        for _ in range(config.blocks[level]):
            part = part + _residual(side, before, width)
            before = width
        if level + 1 < len(widths):
            side //= 2
            part = part + conv(width, width, 3, side**2)
    moments = 2 * config.channels
    part = part + _middle(side, before) + norm(before)
    part = part + conv(before, moments, 3, side**2)
    if config.quant_conv:
        part = part + conv(moments, moments, 1, side**2)
    return part


def _decoder(config: AutoencoderConfig, image_size: int) -> Part:
    widths = (config.decoder_widths or config.widths)[::-1]
    side, before = image_size // config.factor, widths[0]
    part = conv(config.channels, before, 3, side**2) + _middle(side, before)
    if config.quant_conv:
        part = part + conv(config.channels, config.channels, 1, side**2)
    for level, width in enumerate(widths):
        for _ in range(config.blocks[::-1][level] + 1):
            part = part + _residual(side, before, width)
            before = width
        if level + 1 < len(widths):
            side *= 2
            part = part + conv(width, width, 3, side**2)
    return part + norm(before) + conv(before, 3, 3, side**2)


def _tiny_level(
    config: AutoencoderConfig, level: int, inner: bool, width: int, side: int
) -> Part:
    pixels = side**2
    block = conv(width, width, 3, pixels) * 3
    if config.pooled and inner:
        block = block + norm(4 * width)
        block = block + conv(width, 4 * width, 1, pixels, bias=False) * 2
    return block * config.blocks[level]


def _tiny_encoder(config: AutoencoderConfig, side: int) -> Part:
    width, last = config.widths[0], len(config.widths) - 1
    part = conv(3, width, 3, side**2)
    for level in range(last + 1):
        if level:
            side //= 2
            part = part + conv(width, width, 3, side**2, bias=False)
        inner = level == last
        part = part + _tiny_level(config, level, inner, width, side)
    return part + conv(width, config.channels, 3, side**2)


def _tiny_decoder(config: AutoencoderConfig, image_size: int) -> Part:
    width = (config.decoder_widths or config.widths)[0]
    last, side = len(config.widths) - 1, image_size // config.factor
    part = conv(config.channels, width, 3, side**2)
    for level in range(last, -1, -1):
        inner = level == last
        part = part + _tiny_level(config, level, inner, width, side)
        if level:
            side *= 2
            part = part + conv(width, width, 3, side**2, bias=False)
    return part + conv(width, 3, 3, side**2)
