"""Layouts of autoencoders: diffusers, latent diffusion, TAESD.

KL autoencoders differ only in the names of their parts, which a layout lists;
the tiny ones are numbered layers of an `nn.Sequential`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from i2i_prior.interop.layouts.mapping import (
    LINEAR,
    Op,
    Rule,
    compose,
    conv,
    norm,
    reshaped,
    same,
)
from i2i_prior.models.autoencoder_config import AutoencoderConfig


@dataclass(frozen=True)
class KlLayout:
    """Names of the parts of a KL autoencoder.

    Attributes:
      name: of the layout.
      down, up: level of the encoder or decoder, with `{level}`.
      block: residual block in a level, with `{block}`.
      shortcut: 1x1 convolution of a block.
      downsample, upsample: convolution between levels.
      first, attention, last: parts of the middle block.
      parts: norm, query, key, value and output of the attention.
      norm_out: last norm of the encoder or decoder.
      quant, post_quant: 1x1 convolutions around the latent.
      image_first: whether the decoder's levels count from the image.
      square: whether the attention's matrices are (w, w) instead of 1x1
        convolutions (w, w, 1, 1).
      prefix: of all keys.
    """

    name: str = "diffusers"
    down: str = "encoder.down_blocks.{level}"
    up: str = "decoder.up_blocks.{level}"
    block: str = "resnets.{block}"
    shortcut: str = "conv_shortcut"
    downsample: str = "downsamplers.0.conv"
    upsample: str = "upsamplers.0.conv"
    first: str = "mid_block.resnets.0"
    attention: str = "mid_block.attentions.0"
    last: str = "mid_block.resnets.1"
    parts: tuple[str, ...] = ("group_norm", "to_q", "to_k", "to_v", "to_out.0")
    norm_out: str = "conv_norm_out"
    quant: str = "quant_conv"
    post_quant: str = "post_quant_conv"
    image_first: bool = False
    square: bool = True
    prefix: str = ""

    def rules(self, config: AutoencoderConfig) -> list[Rule]:
        """Returns the rules for this config."""
        rules = [*_encoder(config, self), *_decoder(config, self)]
        if config.quant_conv:
            rules += conv("quant_conv", self.quant)
            rules += conv("post_quant_conv", self.post_quant)
        if config.batch_norm:
            rules.append(same("statistics/mean", "bn.running_mean"))
            rules.append(same("statistics/variance", "bn.running_var"))
        return [_prefixed(rule, self.prefix) for rule in rules]


def _prefixed(rule: Rule, prefix: str) -> Rule:
    theirs = tuple(prefix + key for key in rule.theirs)
    return dataclasses.replace(rule, theirs=theirs)


def _encoder(config: AutoencoderConfig, layout: KlLayout) -> Iterator[Rule]:
    widths = config.widths
    yield from _ends("encoder", layout)
    yield from _middle("encoder", widths[-1], layout)
    for level, blocks in enumerate(config.blocks):
        inputs = widths[max(level - 1, 0)]
        ours = f"encoder/levels/{level}"
        theirs = layout.down.format(level=level)
        yield from _level(ours, theirs, blocks, inputs == widths[level], layout)
        if level + 1 < len(widths):
            yield from conv(f"{ours}/resample", f"{theirs}.{layout.downsample}")


def _decoder(config: AutoencoderConfig, layout: KlLayout) -> Iterator[Rule]:
    widths = (config.decoder_widths or config.widths)[::-1]
    yield from _ends("decoder", layout)
    yield from _middle("decoder", widths[0], layout)
    for level, blocks in enumerate(config.blocks[::-1]):
        inputs = widths[max(level - 1, 0)]
        ours = f"decoder/levels/{level}"
        place = len(widths) - 1 - level if layout.image_first else level
        theirs = layout.up.format(level=place)
        equal = inputs == widths[level]
        yield from _level(ours, theirs, blocks + 1, equal, layout)
        if level + 1 < len(widths):
            yield from conv(f"{ours}/resample", f"{theirs}.{layout.upsample}")


def _ends(half: str, layout: KlLayout) -> Iterator[Rule]:
    yield from conv(f"{half}/conv_in", f"{half}.conv_in")
    yield from norm(f"{half}/norm_out", f"{half}.{layout.norm_out}")
    yield from conv(f"{half}/conv_out", f"{half}.conv_out")


def _level(
    ours: str, theirs: str, blocks: int, equal: bool, layout: KlLayout
) -> Iterator[Rule]:
    for number in range(blocks):
        block = f"{theirs}.{layout.block.format(block=number)}"
        yield from _block(f"{ours}/blocks/{number}", block)
        if number == 0 and not equal:
            yield from conv(
                f"{ours}/blocks/0/shortcut", f"{block}.{layout.shortcut}"
            )


def _block(ours: str, theirs: str) -> Iterator[Rule]:
    for part in "12":
        yield from norm(f"{ours}/norm{part}", f"{theirs}.norm{part}")
        yield from conv(f"{ours}/conv{part}", f"{theirs}.conv{part}")


def _middle(half: str, width: int, layout: KlLayout) -> Iterator[Rule]:
    ours = f"{half}/mid"
    yield from _block(f"{ours}/first", f"{half}.{layout.first}")
    yield from _block(f"{ours}/last", f"{half}.{layout.last}")
    attention = f"{half}.{layout.attention}"
    yield from norm(f"{ours}/attention/norm", f"{attention}.{layout.parts[0]}")
    for name, part in zip(
        ("q", "k", "v", "out"), layout.parts[1:], strict=True
    ):
        place = f"{ours}/attention/{name}"
        key = f"{attention}.{part}"
        op = _matrix(width, layout.square)
        yield Rule((f"{place}/kernel",), (f"{key}.weight",), op)
        yield same(f"{place}/bias", f"{key}.bias")


def _matrix(width: int, square: bool) -> Op:
    if square:
        return LINEAR
    shape = (width, width)
    return compose(reshaped(shape, (*shape, 1, 1)), LINEAR)


@dataclass(frozen=True)
class TinyLayout:
    """Prefixes of a tiny autoencoder's numbered layers.

    Activations and upsamplings are counted as layers.

    Attributes:
      name: of the layout.
      encoder, decoder: prefix of each half, None for a half that is not in
        the file.
      clamped: whether the decoder's clamp counts as layer 0.
    """

    name: str
    encoder: str | None
    decoder: str | None
    clamped: bool = True

    @property
    def prefixes(self) -> tuple[str | None, str | None]:
        """Prefixes of both halves."""
        return self.encoder, self.decoder

    def rules(self, config: AutoencoderConfig) -> list[Rule]:
        """Returns the rules for this config."""
        rules: list[Rule] = []
        if self.encoder is not None:
            rules += _tiny_encoder(config, self.encoder)
        if self.decoder is not None:
            start = 1 if self.clamped else 0
            rules += _tiny_decoder(config, self.decoder, start)
        return rules


def _tiny_encoder(config: AutoencoderConfig, prefix: str) -> Iterator[Rule]:
    yield from conv("encoder/conv_in", f"{prefix}0")
    layer = 1
    for level, blocks in enumerate(config.blocks):
        if level:
            ours = f"encoder/downs/{level - 1}"
            yield from conv(ours, f"{prefix}{layer}", bias=False)
            layer += 1
        pooled = config.pooled and level == len(config.blocks) - 1
        for number in range(blocks):
            ours = f"encoder/levels/{level}/blocks/{number}"
            yield from _tiny_block(ours, f"{prefix}{layer}", pooled)
            layer += 1
    yield from conv("encoder/conv_out", f"{prefix}{layer}")


def _tiny_decoder(
    config: AutoencoderConfig, prefix: str, start: int
) -> Iterator[Rule]:
    yield from conv("decoder/conv_in", f"{prefix}{start}")
    layer = start + 2  # an activation follows
    for level, blocks in enumerate(config.blocks[::-1]):
        if level:
            layer += 1  # an upsampling comes first
            ours = f"decoder/ups/{level - 1}"
            yield from conv(ours, f"{prefix}{layer}", bias=False)
            layer += 1
        pooled = config.pooled and level == 0
        for number in range(blocks):
            ours = f"decoder/levels/{level}/blocks/{number}"
            yield from _tiny_block(ours, f"{prefix}{layer}", pooled)
            layer += 1
    yield from conv("decoder/conv_out", f"{prefix}{layer}")


def _tiny_block(ours: str, theirs: str, pooled: bool) -> Iterator[Rule]:
    for number, place in enumerate((0, 2, 4), start=1):
        yield from conv(f"{ours}/conv{number}", f"{theirs}.conv.{place}")
    if pooled:
        pool = f"{theirs}.pool"
        yield from conv(f"{ours}/pool/wide", f"{pool}.0", bias=False)
        yield from norm(f"{ours}/pool/norm", f"{pool}.1")
        yield from conv(f"{ours}/pool/narrow", f"{pool}.3", bias=False)


_OLD_PARTS = ("group_norm", "query", "key", "value", "proj_attn")
_LDM = KlLayout(
    name="ldm",
    down="encoder.down.{level}",
    up="decoder.up.{level}",
    block="block.{block}",
    shortcut="nin_shortcut",
    downsample="downsample.conv",
    upsample="upsample.conv",
    first="mid.block_1",
    attention="mid.attn_1",
    last="mid.block_2",
    parts=("norm", "q", "k", "v", "proj_out"),
    norm_out="norm_out",
    image_first=True,
    square=False,
)

KL_LAYOUTS: dict[str, KlLayout] = {
    layout.name: layout
    for layout in (
        KlLayout(),
        KlLayout(name="diffusers-old", parts=_OLD_PARTS),
        _LDM,
        dataclasses.replace(
            _LDM, name="ldm-checkpoint", prefix="first_stage_model."
        ),
        dataclasses.replace(_LDM, name="ldm-vae", prefix="vae."),
        # Black Forest Labs' own FLUX.2 file.
        dataclasses.replace(
            _LDM,
            name="flux2",
            quant="encoder.quant_conv",
            post_quant="decoder.post_quant_conv",
        ),
    )
}
TINY_LAYOUTS: dict[str, TinyLayout] = {
    layout.name: layout
    for layout in (
        TinyLayout("diffusers", "encoder.layers.", "decoder.layers.", False),
        TinyLayout("taesd", "encoder.", "decoder."),
        TinyLayout("taesd-encoder", "", None),
        TinyLayout("taesd-decoder", None, ""),
    )
}
