"""Layouts of autoencoders: diffusers, latent diffusion, TAESD.

KL autoencoders differ only in the names of their parts, which a layout lists;
the tiny ones are numbered layers of an `nn.Sequential`.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from i2i_prior.interop.layouts import mapping
from i2i_prior.interop.layouts.mapping import Rule
from i2i_prior.models.autoencoder_config import AutoencoderConfig

Pairs = Iterator[
    tuple[mapping.Keys, mapping.Keys]
]  # of a part's name and its key


@dataclass(frozen=True)
class KlLayout:
    """Names of the parts of a KL autoencoder."""

    name: str = "diffusers"
    # Levels of the halves, residual blocks in them, convolutions between them.
    down: str = "encoder.down_blocks.{level}"
    up: str = "decoder.up_blocks.{level}"
    block: str = "resnets.{block}"
    shortcut: str = "conv_shortcut"  # 1x1 convolution of a block
    downsample: str = "downsamplers.0.conv"
    upsample: str = "upsamplers.0.conv"
    # The middle block, and its attention's norm, query, key, value, output.
    first: str = "mid_block.resnets.0"
    attention: str = "mid_block.attentions.0"
    last: str = "mid_block.resnets.1"
    parts: tuple[str, ...] = ("group_norm", "to_q", "to_k", "to_v", "to_out.0")
    norm_out: str = "conv_norm_out"
    quant: str = "quant_conv"  # 1x1 convolutions around the latent
    post_quant: str = "post_quant_conv"
    image_first: bool = False  # the decoder's levels count from the image
    square: bool = True  # attention's matrices (w, w), not (w, w, 1, 1)
    prefix: str = ""  # of all keys

    def rules(
        self, config: AutoencoderConfig, arrays: Mapping[str, Any]
    ) -> list[Rule]:
        """Returns the rules for this config's arrays or structs, by name."""
        names: mapping.Names = {
            **dict(_kl_half("encoder", config.blocks, self)),
            **dict(_kl_half("decoder", config.blocks[::-1], self)),
            "quant_conv": self.quant,
            "post_quant_conv": self.post_quant,
            "statistics/mean": "bn.running_mean",
            "statistics/variance": "bn.running_var",
        }
        ops = {}
        if not self.square:
            ops = {
                f"{half}/mid/attention/{part}/kernel": mapping.patch_conv(1)
                for half in ("encoder", "decoder")
                for part in _ATTENTION[1:]
            }
        return mapping.rules_of(
            mapping.prefixed(names, self.prefix), arrays, ops
        )


_ATTENTION = ("norm", "q", "k", "v", "out")


def _kl_half(half: str, blocks: tuple[int, ...], layout: KlLayout) -> Pairs:
    """Yields the names of the encoder or decoder, from its first level on."""
    levels, encodes = len(blocks), half == "encoder"
    yield f"{half}/conv_in", f"{half}.conv_in"
    yield f"{half}/norm_out", f"{half}.{layout.norm_out}"
    yield f"{half}/conv_out", f"{half}.conv_out"
    yield from _kl_block(f"{half}/mid/first", f"{half}.{layout.first}")
    yield from _kl_block(f"{half}/mid/last", f"{half}.{layout.last}")
    for ours, part in zip(_ATTENTION, layout.parts, strict=True):
        place = f"{half}/mid/attention/{ours}"
        yield place, f"{half}.{layout.attention}.{part}"
    for level, count in enumerate(blocks):
        ours = f"{half}/levels/{level}"
        from_image = layout.image_first and not encodes
        number = levels - 1 - level if from_image else level
        stem = layout.down if encodes else layout.up
        theirs = stem.format(level=number)
        for block in range(count if encodes else count + 1):
            key = f"{theirs}.{layout.block.format(block=block)}"
            yield from _kl_block(f"{ours}/blocks/{block}", key)
            yield f"{ours}/blocks/{block}/shortcut", f"{key}.{layout.shortcut}"
        resample = layout.downsample if encodes else layout.upsample
        yield f"{ours}/resample", f"{theirs}.{resample}"


def _kl_block(ours: str, theirs: str) -> Pairs:
    for part in ("norm1", "conv1", "norm2", "conv2"):
        yield f"{ours}/{part}", f"{theirs}.{part}"


@dataclass(frozen=True)
class TinyLayout:
    """Prefixes of a tiny autoencoder's numbered layers.

    Activations and upsamplings are counted as layers.
    """

    name: str
    encoder: str | None  # None for a half that is not in the file
    decoder: str | None
    clamped: bool = True  # the decoder's clamp counts as layer 0

    @property
    def prefixes(self) -> tuple[str | None, str | None]:
        """Prefixes of both halves."""
        return self.encoder, self.decoder

    def rules(
        self, config: AutoencoderConfig, arrays: Mapping[str, Any]
    ) -> list[Rule]:
        """Returns the rules for this config's arrays or structs, by name."""
        names: mapping.Names = {}
        if self.encoder is not None:
            names |= _tiny_half("encoder", config.blocks, self.encoder, 0)
        if self.decoder is not None:
            names |= _tiny_half(
                "decoder", config.blocks[::-1], self.decoder, int(self.clamped)
            )
        return mapping.rules_of(names, arrays)


def _tiny_half(
    half: str, blocks: tuple[int, ...], prefix: str, first: int
) -> Pairs:
    """Yields the names of a half whose first convolution is layer `first`."""
    decodes = int(half == "decoder")
    resample = "ups" if decodes else "downs"
    yield f"{half}/conv_in", f"{prefix}{first}"
    layer = first + 1 + decodes  # the decoder has an activation there
    for level, count in enumerate(blocks):
        if level:
            layer += decodes  # and an upsampling before each convolution
            yield f"{half}/{resample}/{level - 1}", f"{prefix}{layer}"
            layer += 1
        for number in range(count):
            ours = f"{half}/levels/{level}/blocks/{number}"
            yield from _tiny_block(ours, f"{prefix}{layer}")
            layer += 1
    yield f"{half}/conv_out", f"{prefix}{layer}"


def _tiny_block(ours: str, theirs: str) -> Pairs:
    for number, place in enumerate((0, 2, 4), start=1):
        yield f"{ours}/conv{number}", f"{theirs}.conv.{place}"
    for name, place in (("wide", 0), ("norm", 1), ("narrow", 3)):
        yield f"{ours}/pool/{name}", f"{theirs}.pool.{place}"


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
