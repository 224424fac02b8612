"""Latents and conditions that the networks read from a batch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from i2i_prior.models.precision import Array
from i2i_prior.models.preprocess import normalise
from i2i_prior.models.vit import Features
from i2i_prior.parallel.constraints import (
    constrain,
    data_parallel_only,
    shard_batch,
)
from i2i_prior.parallel.mesh import AXES
from i2i_prior.tasks.resolve import Resolved


class Inputs(NamedTuple):
    """Target latents and their conditions."""

    x0: Array  # latents (B, H, W, C), float32
    # (B, M0, C_e), float32; None without the tokens door
    embeddings: Array | None = None
    # Latents (B, H, W, K) of the source image; None without the concat door
    concat: Array | None = None


def example_spec(
    config: ConfigDict, shapes: Resolved
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of one example: images, or prepared latents.

    Returns:
      image (S, S, 3) and, with an encoder, view (V, V, 3), uint8; or with
      `data.cached` latent (h, w, c), where c is twice the channels for a
      Gaussian, and embedding (M, C), which may come in bfloat16 as well.
      With `data.aspect_buckets` an image is about as large as this square,
      and size (2,) and aspect (1,), float32, say what it was. With classes
      label (), int32; with a concat door source_image (S, S, 3), uint8.
    """
    if config.data.cached:
        return _cached_spec(shapes)
    spec = {
        name: jax.ShapeDtypeStruct((side, side, 3), jnp.uint8)
        for name, side in image_sides(shapes).items()
    }
    if shapes.dit.classes:
        spec["label"] = jax.ShapeDtypeStruct((), jnp.int32)
    if config.data.aspect_buckets:
        spec["size"] = jax.ShapeDtypeStruct((2,), jnp.float32)
        spec["aspect"] = jax.ShapeDtypeStruct((1,), jnp.float32)
    return spec


def image_sides(shapes: Resolved) -> dict[str, int]:
    """Sides of the images of an example, pixels, by their names."""
    sides = {"image": shapes.image_size}
    if shapes.conditioner is not None:
        sides["view"] = shapes.view_size
    if shapes.dit.concat_channels:
        sides["source_image"] = shapes.image_size
    return sides


def cuts(config: ConfigDict, shapes: Resolved) -> dict[str, tuple[str, int]]:
    """Images of a held-out example: name -> image of the record, and side.

    `image` is the target, view and source_image are conditions; of a pair
    with an encoder target_view, the target as the encoder sees images.
    """
    source, _, target = config.data.pair.lower().partition(":")
    conditions = {"view": source, "source_image": source}
    found = {
        name: (conditions.get(name, target), side)
        for name, side in image_sides(shapes).items()
    }
    if config.data.pair and "view" in found:
        found["target_view"] = target, shapes.view_size
    return found


def _cached_spec(shapes: Resolved) -> dict[str, jax.ShapeDtypeStruct]:
    latent, conditioner = shapes.latent, shapes.conditioner
    side = shapes.image_size // latent.factor
    channels = latent.channels * (2 if shapes.is_gaussian else 1)
    spec = {"latent": jax.ShapeDtypeStruct((side, side, channels), jnp.float16)}
    if conditioner is not None:
        stored = {"cls": 1, "tokens": conditioner.length}
        length = stored.get(conditioner.tokens_from, conditioner.patches)
        size = (length, conditioner.embedding_width)
        spec["embedding"] = jax.ShapeDtypeStruct(size, jnp.float16)
    return spec


def read(
    config: ConfigDict, model: Any, batch: dict[str, Array], noise: Array | None
) -> Inputs:
    """Latents and conditions of a batch.

    Each device reads images of its own, so that context and tensor shards do
    not read the same ones.

    Args:
      config: of the run.
      model: of `Task.merged`.
      batch: see `example_spec`.
      noise: (B, H, W, C) of the draw from the autoencoder's Gaussian; None
        where it gives none, or its mean is meant.
    """
    if "latent" in batch:
        return _read_cached(model, batch, noise)
    if noise is not None:
        noise = constrain(noise, AXES)
    names = ("image", "view", "source_image")
    arrays = {n: constrain(batch[n], AXES) for n in names if n in batch}
    with data_parallel_only():
        x0 = _encode(model, arrays["image"], noise)
        embeddings = concat = None
        if model.conditioner is not None:
            embeddings = embed(config, model, arrays["view"])
        if "source_image" in arrays:
            concat = encode_mean(model, arrays["source_image"])
    return Inputs(
        shard_batch(x0),
        None if embeddings is None else shard_batch(embeddings),
        None if concat is None else shard_batch(concat),
    )


def embed(config: ConfigDict, model: Any, views: Array) -> Array:
    """views uint8 (B, V, V, 3) -> embeddings float32 (B, M0, C)."""
    pixels = to_float(views)
    if config.encoder.pixels == "family":
        pixels = normalise((pixels + 1) / 2, config.encoder.family)
    return model.conditioner.choose(model.encoder(pixels))


def encode_mean(model: Any, images: Array) -> Array:
    """images uint8 (B, S, S, 3) -> latents, nothing drawn, (B, H, W, C)."""
    return _encode(model, images, None)


def to_float(images: Array) -> Array:
    """uint8 images -> float32 in [-1, 1]; floats pass through."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 127.5 - 1
    return images


def _read_cached(
    model: Any, batch: dict[str, Array], noise: Array | None
) -> Inputs:
    x0 = batch["latent"].astype(jnp.float32)
    if noise is not None:
        mean, log_variance = jnp.split(x0, 2, axis=-1)
        x0 = mean + jnp.exp(0.5 * log_variance) * noise
    if model.conditioner is None:
        return Inputs(x0)
    features = batch["embedding"]
    if model.conditioner.config.tokens_from == "tokens":
        return Inputs(x0, features.astype(jnp.float32))
    chosen = Features(features[:, 0], features)
    return Inputs(x0, model.conditioner.choose(chosen))


def _encode(model: Any, images: Array, noise: Array | None) -> Array:
    images = to_float(images)
    if model.autoencoder is None:
        return images
    if noise is not None:
        return model.autoencoder.sample(images, noise)
    return model.autoencoder.encode(images)
