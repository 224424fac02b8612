"""Detection of an autoencoder's layout and config."""

import dataclasses
import itertools
import re
from collections.abc import Mapping
from typing import Any

from i2i_prior.errors import UserError
from i2i_prior.interop.layouts.autoencoder import (
    KL_LAYOUTS,
    TINY_LAYOUTS,
    KlLayout,
    TinyLayout,
)
from i2i_prior.models.autoencoder import AUTOENCODERS
from i2i_prior.models.autoencoder_config import AutoencoderConfig, check_config

Shapes = Mapping[str, tuple[int, ...]]

# Latent channels -> the preset that is assumed for a KL autoencoder without a
# config.json, and another preset of the same shape.
_ASSUMED = {4: ("sd", "sdxl"), 16: ("flux", "sd3"), 32: ("flux2", None)}


def detect(shapes: Shapes, path: Any = "this file") -> KlLayout | TinyLayout:
    """Returns the layout of a file's keys; UserError, which names `path`, where
    it is unknown."""

    for name, *keys in (
        ("diffusers", "encoder.layers.0.weight"),
        ("taesd", "encoder.0.weight"),
        ("taesd-encoder", "0.weight", "1.conv.0.weight"),
        ("taesd-decoder", "1.weight", "3.conv.0.weight"),
    ):
        if all(len(shapes.get(key, ())) == 4 for key in keys):
            return TINY_LAYOUTS[name]
    moved = "encoder.quant_conv.weight" in shapes
    for layout in KL_LAYOUTS.values():
        query = f"{layout.prefix}encoder.{layout.attention}.{layout.parts[1]}"
        shape = shapes.get(f"{query}.weight")
        if shape is not None and moved == (layout.name == "flux2"):
            return dataclasses.replace(layout, square=len(shape) == 2)
    raise UserError(
        f"{path} holds no known autoencoder; use AutoencoderKL or "
        "AutoencoderTiny weights of diffusers, a latent-diffusion checkpoint "
        "or TAESD files"
    )


def infer(shapes: Shapes, layout: KlLayout | TinyLayout) -> AutoencoderConfig:
    """Returns the config that shapes imply, with scale 1 and default groups.

    The layout is from `detect`, with an encoder.
    """
    if isinstance(layout, TinyLayout):
        return _infer_tiny(shapes, layout)

    def conv1(place: str, level: int, block: int) -> tuple[int, ...]:
        key = f"{place}.{layout.block}.conv1.weight"
        key = layout.prefix + key.format(level=level, block=block)
        return shapes.get(key, ())

    def widths(place: str) -> tuple[int, ...]:
        levels = (conv1(place, level, 0) for level in itertools.count())
        return tuple(shape[0] for shape in itertools.takewhile(bool, levels))

    def blocks(level: int) -> int:
        count = itertools.count()
        return next(n for n in count if not conv1(layout.down, level, n))

    encoder, decoder = widths(layout.down), widths(layout.up)
    if not layout.image_first:
        decoder = decoder[::-1]
    moments = shapes.get(f"{layout.prefix}encoder.conv_out.bias", (0,))
    return AutoencoderConfig(
        channels=moments[0] // 2 if moments else 0,
        widths=encoder,
        decoder_widths=() if decoder == encoder else decoder,
        blocks=tuple(blocks(level) for level in range(len(encoder))),
        scale=1.0,
        quant_conv=f"{layout.prefix}{layout.quant}.weight" in shapes,
        batch_norm=1e-4 if f"{layout.prefix}bn.running_mean" in shapes else 0.0,
    )


def _infer_tiny(shapes: Shapes, layout: TinyLayout) -> AutoencoderConfig:
    """Infers a tiny autoencoder: convolutions, each followed by blocks."""
    start = re.escape(layout.encoder or "")
    layer = re.compile(rf"{start}(\d+)\.(conv\.0\.)?weight")
    found = [
        (match, shape)
        for key, shape in shapes.items()
        if (match := layer.fullmatch(key)) and len(shape) == 4
    ]
    widths: list[int] = []
    blocks: list[int] = []
    for match, shape in sorted(found, key=lambda pair: int(pair[0][1])):
        if match[2] and blocks:
            blocks[-1] += 1
        else:
            widths.append(shape[0])
            blocks.append(0)
    return AutoencoderConfig(
        kind="tiny",
        channels=widths[-1],
        widths=tuple(widths[:-1]),
        blocks=tuple(blocks[:-1]),
        groups=4,
        scale=1.0,
        quant_conv=False,
        pooled=any(".pool." in key for key in shapes),
    )


def complete(
    config: AutoencoderConfig,
    known: Mapping[str, Any],
    preset: str | None,
    path: Any,
) -> tuple[AutoencoderConfig, list[str]]:
    """Adds groups, scale and shift, which shapes do not imply.

    `config` is from `infer`; `known` is the content of the config.json of
    diffusers, empty without one, and overrides the preset, a name of
    `AUTOENCODERS`; `path` is for messages. Returns the whole config, and a
    sentence for each assumption. UserError where preset, config.json and
    weights contradict each other.
    """
    notes: list[str] = []
    base = config
    if preset:
        base = _preset(preset, config, path)
    elif (
        config.kind == "kl"
        and config.channels in _ASSUMED
        and not config.batch_norm  # which normalises by itself
    ):
        name, other = _ASSUMED[config.channels]
        base = _preset(name, config, path)
        if "scaling_factor" not in known:
            notes.append(
                f"{path} does not contain the scale of its latents: {name} is "
                f"assumed (scale {base.scale}, shift {base.shift})"
                + (f'; give preset="{other}" if it is that' if other else "")
            )
    changes: dict[str, Any] = {"scale": base.scale, "shift": base.shift}
    if config.kind == "kl":
        changes["groups"] = known.get("norm_num_groups", base.groups)
    if config.batch_norm:
        changes["batch_norm"] = known.get("batch_norm_eps", config.batch_norm)
    if known.get("scaling_factor") is not None:
        changes["scale"] = known["scaling_factor"]
        changes["shift"] = known.get("shift_factor") or 0.0
        differs = (changes["scale"], changes["shift"])
        if preset and differs != (base.scale, base.shift):
            notes.append(
                f"scale {differs[0]} and shift {differs[1]} are from the "
                f"config.json of {path}, not from the preset {preset}"
            )
    mean, deviation = known.get("latents_mean"), known.get("latents_std")
    if mean and deviation:
        try:
            scale = float(changes["scale"])
            changes["scale"] = tuple(scale / float(d) for d in deviation)
            changes["shift"] = tuple(float(m) for m in mean)
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise UserError(
                f"the latents_mean and latents_std in the config.json of "
                f"{path} are not numbers ({error}); correct or remove them"
            ) from error
    whole = dataclasses.replace(config, **changes)
    check_config(whole)
    return whole, notes


def diffusers_config(config: AutoencoderConfig) -> dict[str, Any]:
    """Returns the config.json of an export in the layout `diffusers`; UserError
    where diffusers has no class of this shape."""
    blocks = list(config.blocks)
    per_channel = isinstance(config.scale, tuple)
    if config.kind == "tiny" and not (config.pooled or per_channel):
        decoder = config.decoder_widths or config.widths
        return {
            "_class_name": "AutoencoderTiny",
            "encoder_block_out_channels": list(config.widths),
            "decoder_block_out_channels": list(decoder[::-1]),
            "num_encoder_blocks": blocks,
            "num_decoder_blocks": blocks[::-1],
            "latent_channels": config.channels,
            "scaling_factor": config.scale,
            "shift_factor": config.shift,
        }
    flux2 = bool(config.batch_norm)
    if (
        config.kind == "tiny"
        or len(set(blocks)) > 1
        or (config.decoder_widths and not flux2)
        or (flux2 and (config.scale, config.shift) != (1, 0))
    ):
        raise UserError(
            "diffusers has no autoencoder class of this shape "
            f"({config.to_json()}); export it in another layout"
        )
    levels = len(config.widths)
    written: dict[str, Any] = {
        "_class_name": "AutoencoderKLFlux2" if flux2 else "AutoencoderKL",
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": list(config.widths),
        "layers_per_block": blocks[0],
        "latent_channels": config.channels,
        "norm_num_groups": config.groups,
        "use_quant_conv": config.quant_conv,
        "use_post_quant_conv": config.quant_conv,
    }
    if flux2:
        written["batch_norm_eps"] = config.batch_norm
        if config.decoder_widths:
            written["decoder_block_out_channels"] = [*config.decoder_widths]
    elif isinstance(config.scale, tuple):
        written["scaling_factor"] = 1.0
        mean = config.shift
        each = mean if isinstance(mean, tuple) else [mean] * config.channels
        written["latents_mean"] = list(each)
        written["latents_std"] = [1 / scale for scale in config.scale]
    else:
        written["scaling_factor"] = config.scale
        written["shift_factor"] = config.shift
    return written


def _preset(
    name: str, config: AutoencoderConfig, path: Any
) -> AutoencoderConfig:
    preset = AUTOENCODERS.get(name)
    if not isinstance(preset, AutoencoderConfig):
        known = [k for k in AUTOENCODERS if k != "pixels"]
        raise UserError(
            f"no autoencoder preset {name!r}; use one of {', '.join(known)}"
        )
    if (preset.kind, preset.channels) != (config.kind, config.channels):
        raise UserError(
            f"{path} is a {config.kind} autoencoder of {config.channels} "
            f"channels, the preset {name} is {preset.kind} of "
            f"{preset.channels}; give the preset that fits"
        )
    return preset
