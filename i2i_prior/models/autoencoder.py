"""Latent spaces by name, and their autoencoders."""

import dataclasses
from dataclasses import dataclass

from flax import nnx

from i2i_prior.models.autoencoder_config import AutoencoderConfig, check_config
from i2i_prior.models.autoencoder_kl import AutoencoderKL
from i2i_prior.models.autoencoder_tiny import AutoencoderTiny
from i2i_prior.models.precision import PRECISIONS


@dataclass(frozen=True)
class Pixels:
    """No autoencoder: the latent is the image, see `AutoencoderConfig`."""

    channels: int = 3
    factor: int = 1


_16_CHANNELS = AutoencoderConfig(channels=16, quant_conv=False)
_TINY = AutoencoderConfig(
    kind="tiny",
    widths=(64, 64, 64, 64),
    blocks=(1, 3, 3, 3),
    groups=4,
    scale=1.0,
    quant_conv=False,
)
_TINY_16 = dataclasses.replace(_TINY, channels=16)

AUTOENCODERS: dict[str, AutoencoderConfig | Pixels] = {
    "pixels": Pixels(),
    "sd": AutoencoderConfig(),
    "sdxl": AutoencoderConfig(scale=0.13025),
    "sd3": dataclasses.replace(_16_CHANNELS, scale=1.5305, shift=0.0609),
    "flux": dataclasses.replace(_16_CHANNELS, scale=0.3611, shift=0.1159),
    "flux2": AutoencoderConfig(channels=32, scale=1.0, batch_norm=1e-4),
    # Trained on normalised latents, hence neither scale nor shift.
    "taesd": _TINY,
    "taesdxl": _TINY,
    "taesd3": _TINY_16,
    "taef1": _TINY_16,
    "taef2": dataclasses.replace(_TINY, channels=32, pooled=True),
}


def make_autoencoder(
    config: AutoencoderConfig, precision: str = "float32", *, rngs: nnx.Rngs
) -> AutoencoderKL | AutoencoderTiny:
    """The module of a config, with random weights; UserError where the shape
    does not fit together."""
    check_config(config)
    module = AutoencoderKL if config.kind == "kl" else AutoencoderTiny
    return module(config, rngs=rngs, precision=PRECISIONS[precision])
