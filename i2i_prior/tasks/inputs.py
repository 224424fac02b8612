"""From a batch to latents and embeddings: what of an example is read."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from i2i_prior.models.precision import Array
from i2i_prior.models.preprocess import normalise
from i2i_prior.models.vit import Features
from i2i_prior.parallel.constraints import (
    data_parallel_only,
    shard_all,
    shard_batch,
)


def read(
    config: ConfigDict,
    model: Any,
    batch: dict[str, Array],
    noise: Array | None,
) -> tuple[Array, Array]:
    """Latents and embeddings.

    Each device reads images of its own, so that context and tensor shards do
    not read the same ones.

    Args:
      config: of the run.
      model: of `I2ITask.merged`.
      batch: see `modules.example_shapes`.
      noise: (B, H, W, C) of the draw from the autoencoder's Gaussian; None
        where it gives none, or its mean is meant.

    Returns:
      latents (B, H, W, C) and embeddings (B, M0, C), float32.
    """
    if "latent" in batch:
        return _read_cached(model, batch, noise)
    if noise is not None:
        noise = shard_all(noise)
    images, views = shard_all(batch["image"]), shard_all(batch["view"])
    with data_parallel_only():
        x0 = _encode(model, images, noise)
        embeddings = embed(config, model, views)
    return shard_batch(x0), shard_batch(embeddings)


def embed(config: ConfigDict, model: Any, views: Array) -> Array:
    """views uint8 (B, V, V, 3) -> embeddings float32 (B, M0, C)."""
    pixels = to_float(views)
    if config.encoder.pixels == "family":
        pixels = normalise((pixels + 1) / 2, config.encoder.family)
    return model.conditioner.choose(model.encoder(pixels))


def to_float(images: Array) -> Array:
    """uint8 images -> float32 in [-1, 1]; floats pass through."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 127.5 - 1
    return images


def _read_cached(
    model: Any, batch: dict[str, Array], noise: Array | None
) -> tuple[Array, Array]:
    x0 = batch["latent"].astype(jnp.float32)
    if noise is not None:
        mean, log_variance = jnp.split(x0, 2, axis=-1)
        x0 = mean + jnp.exp(0.5 * log_variance) * noise
    features = batch["embedding"]
    return x0, model.conditioner.choose(Features(features[:, 0], features))


def _encode(model: Any, images: Array, noise: Array | None) -> Array:
    images = to_float(images)
    if model.autoencoder is None:
        return images
    if noise is not None:
        return model.autoencoder.sample(images, noise)
    return model.autoencoder.encode(images)
