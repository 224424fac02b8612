"""What a config's network is made of: module shapes, and the whole module."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from i2i_prior.models.autoencoder import (
    AUTOENCODERS,
    make_autoencoder,
)
from i2i_prior.models.autoencoder_config import (
    config_from_json,
)
from i2i_prior.models.conditioner import Conditioner, ConditionerConfig
from i2i_prior.models.dit import DiT, DiTConfig
from i2i_prior.models.functional import Flat, Functional, make_functional
from i2i_prior.models.precision import PRECISIONS
from i2i_prior.models.vit import ViT, ViTConfig


def encoder_config(config: ConfigDict) -> ViTConfig:
    """The encoder's shape from the `encoder` section."""
    encoder = config.encoder
    return ViTConfig(
        family=encoder.family,
        depth=encoder.depth,
        width=encoder.width,
        heads=encoder.heads,
        patch=encoder.patch,
        image_size=encoder.image_size,
        mlp_width=encoder.mlp_width,
        registers=encoder.registers,
        swiglu=encoder.swiglu,
        projection=encoder.projection,
        epsilon=encoder.epsilon,
        precision=config.model.precision,
    )


def view_size(config: ConfigDict) -> int:
    """Side of the square that the encoder is shown, pixels."""
    return config.encoder.view_size or config.encoder.image_size


def conditioner_config(config: ConfigDict) -> ConditionerConfig:
    """The conditioner's shape from `conditioner`, `encoder`, `model`."""
    section, encoder = config.conditioner, config.encoder
    dit = dit_config(config)
    width = section.embedding_width or encoder.width
    return ConditionerConfig(
        embedding_width=width,
        width=config.model.width,
        tokens_from=section.tokens_from,
        patches=(view_size(config) // encoder.patch) ** 2,
        length=section.length,
        expand=section.expand,
        null=section.null,
        normalize=section.normalize,
        scale=section.scale or math.sqrt(width),
        grid=dit.input_size // dit.patch if section.positions else 0,
        mup_base_width=config.model.mup_base_width,
    )


def dit_config(config: ConfigDict) -> DiTConfig:
    """The DiT's shape from `model`, `data` and `autoencoder`."""
    model = config.model
    autoencoder = autoencoder_config(config)
    return DiTConfig(
        block=model.block,
        depth=model.depth,
        width=model.width,
        heads=model.heads,
        patch=model.patch,
        input_size=config.data.image_size // autoencoder.factor,
        channels=autoencoder.channels,
        learn_sigma=config.diffusion.learn_sigma,
        mlp_ratio=model.mlp_ratio,
        cross_attention=config.conditioner.tokens_from != "none",
        qk_norm=model.qk_norm,
        classes=model.classes,
        size_conditions=model.size_conditions,
        base_size=model.base_size,
        position_scale=model.position_scale,
        mup_base_width=model.mup_base_width,
        one_token=model.one_token,
        precision=model.precision,
        remat=model.remat,
        attention=model.attention,
        scan_unroll=model.scan_unroll,
    )


def autoencoder_config(config: ConfigDict):
    """The latent space from the `autoencoder` section; it has a `channels`
    and a `factor`."""
    section = config.autoencoder
    if section.shape:
        return config_from_json(section.shape)
    return AUTOENCODERS[section.kind]


def example_shapes(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """What a step reads of one example: images as bytes, or with
    `data.cached` what `i2i-prior prepare` made of them.

    Returns:
      image (S, S, 3) and view (V, V, 3), uint8; or latent (h, w, c), where
      c is twice the channels for a Gaussian, and embedding (M, C), which may
      come in bfloat16 as well. With `data.aspect_buckets` an image is about
      as large as this square, and size (2,) and aspect (1,), float32, say
      what it was.
    """
    if not config.data.cached:
        sides = {"image": config.data.image_size, "view": view_size(config)}
        shapes = {
            name: jax.ShapeDtypeStruct((side, side, 3), jnp.uint8)
            for name, side in sides.items()
        }
        if config.data.aspect_buckets:
            shapes["size"] = jax.ShapeDtypeStruct((2,), jnp.float32)
            shapes["aspect"] = jax.ShapeDtypeStruct((1,), jnp.float32)
        return shapes
    latent = autoencoder_config(config)
    side = config.data.image_size // latent.factor
    channels = latent.channels * (2 if is_gaussian(config) else 1)
    conditioner = conditioner_config(config)
    length = 1 if conditioner.tokens_from == "cls" else conditioner.patches
    width = conditioner.embedding_width
    return {
        "latent": jax.ShapeDtypeStruct((side, side, channels), jnp.float16),
        "embedding": jax.ShapeDtypeStruct((length, width), jnp.float16),
    }


def is_gaussian(config: ConfigDict) -> bool:
    """Whether an image's latent is a Gaussian, from which one is drawn."""
    return getattr(autoencoder_config(config), "kind", "") == "kl"


def has_autoencoder(config: ConfigDict) -> bool:
    """Whether the model carries autoencoder weights."""
    return config.autoencoder.kind != "pixels" and bool(
        config.autoencoder.weights
    )


class I2IModel(nnx.Module):
    """All networks under one roof and one tree of names.

    A condition that is given from outside needs no conditioner or encoder, a
    latent space whose weights are elsewhere no autoencoder: those are None.
    """

    def __init__(self, config: ConfigDict, *, rngs: nnx.Rngs):
        precision = config.model.precision
        self.dit = DiT(dit_config(config), rngs=rngs)
        self.conditioner = (
            Conditioner(
                conditioner_config(config),
                rngs=rngs,
                precision=PRECISIONS[precision],
            )
            if config.conditioner.tokens_from != "none"
            else None
        )
        self.encoder = (
            ViT(encoder_config(config), rngs=rngs)
            if config.encoder.kind != "none"
            else None
        )
        self.autoencoder = (
            make_autoencoder(autoencoder_config(config), precision, rngs=rngs)
            if has_autoencoder(config)
            else None
        )


def make_model(
    config: ConfigDict,
) -> tuple[Functional, Callable[[jax.Array], Flat]]:
    """The module as functions over named arrays, and its initialiser."""
    return make_functional(lambda rngs: I2IModel(config, rngs=rngs))


def parameter_shapes(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """name -> shape and dtype of the whole module, nothing allocated."""
    return make_model(config)[0].shapes()
