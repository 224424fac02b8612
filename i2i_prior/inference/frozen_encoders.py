"""Latents and embeddings of images, for `i2i-prior prepare`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from i2i_prior.data.decode_image import center_crop
from i2i_prior.data.examples import Field
from i2i_prior.data.prepare.encode import Encoding
from i2i_prior.errors import UserError
from i2i_prior.inference.encoder import (
    Encoder,
    load_encoder,
)
from i2i_prior.interop.autoencoders import (
    Autoencoder,
    functional_of,
    load_autoencoder,
)
from i2i_prior.interop.files.hashing import hash_of
from i2i_prior.models.autoencoder import (
    AUTOENCODERS,
)
from i2i_prior.models.autoencoder_config import (
    AutoencoderConfig,
)

CHOICES = ("cls", "patches")
# A pair of files is the tiny autoencoder of the same latent space.
_TINY = {
    "sd": "taesd",
    "sdxl": "taesdxl",
    "sd3": "taesd3",
    "flux": "taef1",
    "flux2": "taef2",
}


@dataclass(frozen=True)
class Network:
    """One of the networks.

    Attributes:
      name: of its field.
      look: an image, uint8 (H, W, 3) of any size -> what it reads of it.
      encode: a batch of that, on the devices -> float (B, ...).
      said: of it in the manifest.
      notes: sentences on what its file did not say.
    """

    name: str
    look: Callable[[np.ndarray], np.ndarray]
    encode: Callable[[jax.Array], jax.Array]
    said: dict[str, Any]
    notes: Sequence[str]


def open_autoencoder(kind: str, weights: str, size: int) -> Network:
    """Images in [0, 255] to latents, normalised as the diffusion sees them.

    Args:
      kind: a name of `AUTOENCODERS`.
      weights: a file or folder, or `ENCODER,DECODER` of a tiny one.
      size: side of the square that is encoded, pixels.

    Returns:
      a network whose latents are (B, h, w, 2 C), mean and log variance, of
      an autoencoder with a Gaussian, else (B, h, w, C).

    Raises:
      UserError: where the file does not hold it, or the size does not fit.
    """
    if not isinstance(AUTOENCODERS.get(kind), AutoencoderConfig):
        known = [name for name in AUTOENCODERS if name != "pixels"]
        raise UserError(
            f"--latents {kind} is unknown; choose one of {', '.join(known)}"
        )
    first, comma, second = weights.partition(",")
    if comma and not Path(weights).exists():
        kind = _TINY.get(kind, kind)
        model = load_autoencoder(first, second, preset=kind)
    else:
        if not Path(weights).exists():
            raise UserError(f"no weight file {weights}")
        model = load_autoencoder(weights, preset=kind)
    if size < 1 or size % model.config.factor:
        raise UserError(
            f"--latents {kind} needs --size, a multiple of "
            f"{model.config.factor}, not {size}"
        )
    known_shape = AUTOENCODERS[kind] == model.config
    return Network(
        "latent",
        lambda image: center_crop(image, size),
        _latents(model),
        {
            "kind": kind,
            "shape": "" if known_shape else model.config.to_json(),
            "sha256": hash_of(weights),
        },
        model.notes,
    )


def _latents(model: Autoencoder) -> Callable[[jax.Array], jax.Array]:
    functional = functional_of(model.config)
    gaussian = model.config.kind == "kl"

    @jax.jit
    def encode(parameters: Mapping[str, Any], images: jax.Array) -> jax.Array:
        images = images.astype(jnp.float32) / 127.5 - 1
        module = functional.merge(dict(parameters))
        if gaussian:
            return jnp.concatenate(module.gaussian(images), -1)
        return module.encode(images)

    parameters = _everywhere(model.parameters)
    return lambda images: encode(parameters, images)


def open_encoder(text: str) -> Network:
    """NAME=FILE[:cls|patches] -> an image encoder, `cls` by default.

    Returns:
      a network whose embeddings are (B, M, width), as the encoder gives
      them: M is 1 for cls, the number of patches else.

    Raises:
      UserError: where the text is none, or the file holds no image encoder.
    """
    name, equals, path = text.partition("=")
    rest, colon, choice = path.rpartition(":")
    if colon and choice in CHOICES:
        path = rest
    else:
        choice = CHOICES[0]
    if not (equals and path and re.fullmatch(r"[A-Za-z0-9_.-]+", name)):
        raise UserError(
            f"--embeddings {text} should be NAME=FILE, NAME=FILE:cls or "
            "NAME=FILE:patches, as dino=dino.safetensors:cls"
        )
    encoder = load_encoder(path)
    if not isinstance(encoder, Encoder):
        raise UserError(f"{path} holds a text encoder; give an image encoder")
    encoder.parameters = _everywhere(encoder.parameters)

    def encode(pixels: jax.Array) -> jax.Array:
        features = encoder(pixels)
        return features.cls[:, None] if choice == "cls" else features.patches

    def look(image: np.ndarray) -> np.ndarray:
        return encoder.preprocess([image])[0]

    view = look(np.zeros((8, 8, 3), np.uint8))
    said = {
        "family": encoder.config.family,
        "sha256": hash_of(path),
        "choice": choice,
        "view_size": view.shape[0],
        "pixels": encoder.pixels,
    }
    return Network(f"embedding/{name}", look, encode, said, encoder.notes)


def encoding_of(
    networks: Sequence[Network], batch: int, dtype: str, flip: bool
) -> Encoding:
    """All networks over one batch of images.

    Args:
      networks: of different names, in the order of their fields.
      batch: images at once on each device of this process.
      dtype: "float16" or "bfloat16", of the results.
      flip: whether the mirrored image comes second.
    """
    rows = _sharding("batch")

    def look(image: np.ndarray) -> dict[str, np.ndarray]:
        return {network.name: network.look(image) for network in networks}

    def encode(seen: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        found = {}
        for network in networks:
            images = jax.device_put(seen[network.name], rows)
            variants = [images, images[:, :, ::-1]] if flip else [images]
            results = [network.encode(variant) for variant in variants]
            found[network.name] = jnp.stack(results, 1).astype(dtype)
        return found

    batch *= jax.local_device_count()
    empty = look(np.zeros((8, 8, 3), np.uint8))
    one = {name: array[None].repeat(batch, 0) for name, array in empty.items()}
    made = jax.eval_shape(encode, one)
    fields = tuple(
        Field(network.name, "array", dtype, made[network.name].shape[1:])
        for network in networks
    )
    return Encoding(fields, look, encode, batch)


def _everywhere(parameters: Mapping[str, Any]) -> dict[str, jax.Array]:
    """A copy on each device of this process."""
    return jax.device_put(dict(parameters), _sharding())


def _sharding(*axes: str) -> NamedSharding:
    """Over the devices of this process, which share nothing with others'."""
    devices = jax.local_devices()
    mesh = jax.make_mesh(
        (len(devices),), ("batch",), (AxisType.Auto,), devices=devices
    )
    return NamedSharding(mesh, PartitionSpec(*axes))
