"""The image-to-image task: each image from its own embedding.

One module holds the encoder, the conditioner and the DiT; this file says how
a batch becomes their inputs, what is drawn at random, and what the loss is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from i2i_prior.diffusion import objectives
from i2i_prior.diffusion.guidance import classifier_free, scale_at
from i2i_prior.diffusion.paths import Path, get_path
from i2i_prior.models.autoencoder import AUTOENCODERS
from i2i_prior.models.conditioner import (
    Conditioner,
    ConditionerConfig,
    draw_keep,
)
from i2i_prior.models.dit import DiT, DiTConfig, frozen_names
from i2i_prior.models.functional import Flat, make_functional, partition
from i2i_prior.models.layers import PRECISIONS, Array
from i2i_prior.models.vit import ViT, ViTConfig

Draws = dict[str, Array]

# Of images in [0, 1]: what published encoders read (`encoder.pixels` is
# imagenet). Those trained here read images in [-1, 1] as they are (symmetric).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def encoder_config(config: ConfigDict) -> ViTConfig:
    """The encoder's shape from the `encoder` section."""
    encoder = config.encoder
    return ViTConfig(
        depth=encoder.depth,
        width=encoder.width,
        heads=encoder.heads,
        patch=encoder.patch,
        image_size=encoder.image_size,
        precision=config.model.precision,
    )


def conditioner_config(config: ConfigDict) -> ConditionerConfig:
    """The conditioner's shape from `conditioner`, `encoder`, `model`."""
    section, encoder = config.conditioner, config.encoder
    dit = dit_config(config)
    return ConditionerConfig(
        embedding_width=encoder.width,
        width=config.model.width,
        choice=section.choice,
        patches=(encoder.image_size // encoder.patch) ** 2,
        expand=section.expand,
        null=section.null,
        normalize=section.normalize,
        scale=section.scale or math.sqrt(encoder.width),
        grid=dit.input_size // dit.patch if section.positions else 0,
    )


def dit_config(config: ConfigDict) -> DiTConfig:
    """The DiT's shape from `model`, `data` and `autoencoder`."""
    model = config.model
    autoencoder = AUTOENCODERS[config.autoencoder.kind]()
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
        one_token=model.one_token,
        precision=model.precision,
        remat=model.remat,
        scan_unroll=model.scan_unroll,
    )


class I2IModel(nnx.Module):
    """Encoder, conditioner and DiT under one roof and one tree of names."""

    def __init__(self, config: ConfigDict, *, rngs: nnx.Rngs):
        precision = PRECISIONS[config.model.precision]
        self.dit = DiT(dit_config(config), rngs=rngs)
        self.conditioner = Conditioner(
            conditioner_config(config), rngs=rngs, precision=precision
        )
        self.encoder = ViT(encoder_config(config), rngs=rngs)


class I2ITask:
    """How an i2i example is made, drawn for and scored.

    Attributes:
      path: the noise path.
      autoencoder: the latent space.
      functional: the module as functions over named arrays.
    """

    def __init__(self, config: ConfigDict):
        self.config = config
        self.path: Path = get_path(
            config.diffusion.path, shift=config.diffusion.shift
        )
        self.autoencoder = AUTOENCODERS[config.autoencoder.kind]()
        self.functional, self._init = make_functional(
            lambda rngs: I2IModel(config, rngs=rngs)
        )
        self._frozen = self._frozen_patterns()

    def _frozen_patterns(self) -> tuple[str, ...]:
        patterns = list(frozen_names(dit_config(self.config)))
        if self.config.encoder.kind == "frozen":
            patterns.append(r"^encoder/")
        if self.config.conditioner.null == "random":
            patterns.append(r"^conditioner/null$")
        return tuple(patterns)

    def init(self, key: Array) -> tuple[Flat, Flat]:
        """Fresh (trainable, frozen) parameters, flat, float32."""
        return partition(self._init(key), self._frozen)

    def latent_shape(self, batch: int) -> tuple[int, int, int, int]:
        """(B, H, W, C) of the latents of `batch` images."""
        side = self.config.data.image_size // self.autoencoder.factor
        return batch, side, side, self.autoencoder.channels

    def draw(self, key: Array, batch: int) -> Draws:
        """Everything random of one step, for the whole global batch.

        Drawn before micro-batching and sharding, so that neither changes
        the loss.

        Returns:
          t (B,), noise (B, H, W, C), drop bool (B,), and where configured
          embedding_noise (B, M0, C) and keep bool (B, M).
        """
        config = self.config
        times, noise, drop, embedding, keep = jax.random.split(key, 5)
        draws = {
            "t": objectives.draw_times(
                times,
                batch,
                self.path,
                config.diffusion.time,
                config.diffusion.time_mean,
                config.diffusion.time_std,
            ),
            "noise": jax.random.normal(noise, self.latent_shape(batch)),
            "drop": jax.random.bernoulli(
                drop, config.conditioner.drop_rate, (batch,)
            ),
        }
        shape = conditioner_config(config)
        if config.conditioner.noise:
            size = (batch, shape.embeddings, shape.embedding_width)
            draws["embedding_noise"] = jax.random.normal(embedding, size)
        if config.conditioner.mask_rate:
            draws["keep"] = draw_keep(
                keep, batch, shape.tokens, config.conditioner.mask_rate
            )
        return draws

    def loss(
        self, parameters: Flat, batch: dict[str, Array], draws: Draws
    ) -> tuple[Array, dict[str, Array]]:
        """Per-example loss.

        Args:
          parameters: all of them, trainable and frozen, by name.
          batch: image uint8 (B, S, S, 3), view uint8 (B, V, V, 3).
          draws: of `draw`, or a slice of them.

        Returns:
          loss float32 (B,), and its parts, each (B,).
        """
        config = self.config
        model = self.functional.merge(parameters)
        x0 = self.autoencoder.encode(to_float(batch["image"]))
        embeddings = self._embed(model, batch["view"])
        if "embedding_noise" in draws:
            rms = jnp.sqrt(jnp.square(embeddings).mean(-1, keepdims=True))
            embeddings += (
                config.conditioner.noise * rms * draws["embedding_noise"]
            )
        tokens = model.conditioner(embeddings, draws["drop"])
        x_t = objectives.add_noise(x0, draws["noise"], draws["t"], self.path)
        output = model.dit(
            x_t,
            self.path.network_time(draws["t"]),
            tokens=tokens,
            mask=draws.get("keep"),
        )
        return objectives.loss(
            output,
            x0,
            draws["noise"],
            draws["t"],
            self.path,
            config.diffusion.prediction,
            learn_sigma=config.diffusion.learn_sigma,
            vlb_weight=config.diffusion.vlb_weight,
            weighting=config.diffusion.weighting,
        )

    def _embed(self, model: Any, views: Array) -> Array:
        pixels = to_float(views)
        if self.config.encoder.pixels == "imagenet":
            mean, std = jnp.asarray(IMAGENET_MEAN), jnp.asarray(IMAGENET_STD)
            pixels = ((pixels + 1) / 2 - mean) / std
        return model.conditioner.choose(model.encoder(pixels))

    def embed(self, parameters: Flat, views: Array) -> Array:
        """views uint8 (B, V, V, 3) -> embeddings float32 (B, M0, C)."""
        return self._embed(self.functional.merge(parameters), views)

    def predictor(
        self,
        parameters: Flat,
        embeddings: Array,
        guidance: float | Array = 1.0,
        interval: tuple[float, float] = (0.0, 1.0),
    ) -> Callable[[Array, Array], Array]:
        """The guided network as a function of (x_t, t).

        Condition and null go through the network as one batch of 2B. Only a
        Python number 1 skips the null half.

        Args:
          parameters: all of them, by name.
          embeddings: (B, M0, C), as `embed` gives them.
          guidance: scale, a number or (B,).
          interval: path times between which guidance acts.

        Returns:
          predict(x_t (B, H, W, C), t (B,)) -> prediction (B, H, W, C).
        """
        model = self.functional.merge(parameters)
        tokens = model.conditioner(embeddings)
        channels = self.autoencoder.channels

        def network(x_t: Array, t: Array, tokens: Array) -> Array:
            time = self.path.network_time(t)
            return model.dit(x_t, time, tokens=tokens)[..., :channels]

        if isinstance(guidance, int | float) and guidance == 1:
            return lambda x_t, t: network(x_t, t, tokens)
        null = model.conditioner(
            model.conditioner.null_embeddings(embeddings.shape[0])
        )
        both = jnp.concatenate([tokens, null])

        def guided(x_t: Array, t: Array) -> Array:
            out = network(
                jnp.concatenate([x_t, x_t]), jnp.concatenate([t, t]), both
            )
            cond, uncond = jnp.split(out, 2)
            return classifier_free(
                cond, uncond, scale_at(t, guidance, interval)
            )

        return guided


def to_float(images: Array) -> Array:
    """uint8 images -> float32 in [-1, 1]; floats pass through."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 127.5 - 1
    return images
