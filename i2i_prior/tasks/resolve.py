"""Config -> shapes of everything that it describes, derived once."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from i2i_prior.models.autoencoder import AUTOENCODERS, Pixels
from i2i_prior.models.autoencoder_config import (
    AutoencoderConfig,
    config_from_json,
)
from i2i_prior.models.conditioner import ConditionerConfig
from i2i_prior.models.dit_config import DiTConfig
from i2i_prior.models.vit import ViTConfig


@dataclass(frozen=True)
class Resolved:
    """Shapes of the networks and of what they read."""

    dit: DiTConfig  # of the diffusion transformer
    conditioner: ConditionerConfig | None  # None where no tokens reach the DiT
    # Of the image encoder, None where the model has none
    encoder: ViTConfig | None
    # The latent space, with `channels` and `factor`
    latent: AutoencoderConfig | Pixels
    has_autoencoder: bool  # whether the model carries the autoencoder's weights
    image_size: int  # side of a training image, pixels
    view_size: int  # side of the square that the encoder is shown, pixels

    @property
    def is_gaussian(self) -> bool:
        """True where an image's latent is a Gaussian, to draw one from."""
        return getattr(self.latent, "kind", "") == "kl"


def resolve(config: ConfigDict) -> Resolved:
    """Derives all shapes from a config.

    Raises:
      UserError: where `autoencoder.shape` describes no autoencoder.
    """
    section, latent = config.autoencoder, _latent(config)
    concat = config.conditioner.concat_from
    dit = _shape(
        DiTConfig,
        config.model,
        input_size=config.data.image_size // latent.factor,
        channels=latent.channels,
        learn_sigma=config.diffusion.learn_sigma,
        concat_channels=latent.channels * (concat == "source"),
        cross_attention=config.conditioner.tokens_from != "none",
    )
    encoder = _shape(
        ViTConfig, config.encoder, precision=config.model.precision
    )
    view = config.encoder.view_size or config.encoder.image_size
    return Resolved(
        dit=dit,
        conditioner=_conditioner(config, dit, (view // encoder.patch) ** 2),
        encoder=None if config.encoder.kind == "none" else encoder,
        latent=latent,
        has_autoencoder=section.kind != "pixels" and bool(section.weights),
        image_size=config.data.image_size,
        view_size=view,
    )


def _conditioner(
    config: ConfigDict, dit: DiTConfig, patches: int
) -> ConditionerConfig | None:
    section = config.conditioner
    if section.tokens_from == "none":
        return None
    width = section.embedding_width or config.encoder.width
    return _shape(
        ConditionerConfig,
        section,
        embedding_width=width,
        width=dit.width,
        patches=patches,
        scale=section.scale or math.sqrt(width),
        grid=dit.input_size // dit.patch if section.positions else 0,
        mup_base_width=dit.mup_base_width,
    )


def _latent(config: ConfigDict) -> AutoencoderConfig | Pixels:
    section = config.autoencoder
    if section.shape:
        return config_from_json(section.shape)
    return AUTOENCODERS[section.kind]


def _shape(cls: type, section: ConfigDict, **derived: Any) -> Any:
    """`cls` with its fields of the section's names, and the derived ones."""
    names = {field.name for field in dataclasses.fields(cls)} - {*derived}
    given = {name: section[name] for name in names if name in section}
    return cls(**given, **derived)
