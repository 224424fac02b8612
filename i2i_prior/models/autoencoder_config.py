"""Shape and normalisation of an autoencoder, and its JSON form."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from i2i_prior.errors import UserError


@dataclass(frozen=True)
class AutoencoderConfig:
    """Shape and normalisation of an autoencoder; the defaults are SD 1.x.

    A diffusion model sees (latent - shift) * scale, of about unit scale.
    """

    kind: str = "kl"  # "kl", or "tiny" for the TAESD family
    channels: int = 4  # of the latent
    # Channels of each level, the level of the image first; one level more
    # halves the latent's sides
    widths: tuple[int, ...] = (128, 256, 512, 512)
    # The decoder's where they differ, in the same order
    decoder_widths: tuple[int, ...] = ()
    # Residual blocks of each encoder level; the decoder of kl has one more in
    # each, the decoder of tiny as many
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    groups: int = 32  # of every group norm
    # scale, shift: one number, or one a channel
    scale: float | tuple[float, ...] = 0.18215
    shift: float | tuple[float, ...] = 0.0
    quant_conv: bool = True  # 1x1 convolutions around the latent (kl)
    # Epsilon of the batch norm whose statistics normalise 2x2 patches of the
    # latent (kl, FLUX.2); 0 where there is none
    batch_norm: float = 0.0
    # 1x1 branches in the blocks of the innermost level (tiny, TAEF2)
    pooled: bool = False

    @property
    def factor(self) -> int:
        """Image pixels a latent pixel, a side."""
        return 2 ** (len(self.widths) - 1)

    def to_json(self) -> str:
        """JSON form on one line, of `config_from_json`."""
        return json.dumps(dataclasses.asdict(self))


def config_from_json(text: str) -> AutoencoderConfig:
    """Config of `AutoencoderConfig.to_json`, with defaults of missing fields;
    UserError where the text is no such object."""
    try:
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in json.loads(text).items()
        }
        config = AutoencoderConfig(**fields)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{text!r} does not describe an autoencoder ({error}); give a "
            'JSON object such as {"kind": "kl", "channels": 4}'
        ) from error
    check_config(config)
    return config


def check_config(config: AutoencoderConfig) -> None:
    """Raises UserError where no network of this shape exists."""
    defaults: dict[str, Any] = dataclasses.asdict(AutoencoderConfig())
    for name, default in defaults.items():
        value = getattr(config, name)
        kinds: tuple[type, ...] = (type(default),)
        if isinstance(default, float):
            several = (tuple,) if name in ("scale", "shift") else ()
            kinds = (float, int, *several)
        if not isinstance(value, kinds):
            raise UserError(
                f"autoencoder: {name} is {value!r}; it should be like "
                f"{default!r}"
            )
    if config.kind not in ("kl", "tiny"):
        raise UserError(
            f'autoencoder: kind {config.kind!r}; use "kl" or "tiny"'
        )
    numbers = (*config.widths, *config.decoder_widths, *config.blocks)
    if not numbers or min(*numbers, config.channels, config.groups) < 1:
        raise UserError(
            f"autoencoder: widths {config.widths}, blocks {config.blocks}, "
            f"channels {config.channels} and groups {config.groups} should "
            "all be positive"
        )
    for name in ("scale", "shift"):
        value = getattr(config, name)
        if isinstance(value, tuple) and len(value) != config.channels:
            raise UserError(
                f"autoencoder: {name} has {len(value)} numbers for "
                f"{config.channels} channels; give one or one each"
            )
    levels = len(config.widths)
    if len(config.blocks) != levels or (
        config.decoder_widths and len(config.decoder_widths) != levels
    ):
        raise UserError(
            f"autoencoder: widths {config.widths}, decoder_widths "
            f"{config.decoder_widths} and blocks {config.blocks} should have "
            "one number a level"
        )
    if config.kind == "kl":
        odd = [
            w
            for w in config.widths + config.decoder_widths
            if w % config.groups
        ]
        if odd:
            raise UserError(
                f"autoencoder: {config.groups} groups do not divide {odd[0]} "
                "channels; change groups or widths"
            )
    elif len(set(config.widths + config.decoder_widths)) > 1:
        raise UserError(
            f"autoencoder: a tiny one has the same width in every level, not "
            f"{config.widths} and {config.decoder_widths}"
        )
