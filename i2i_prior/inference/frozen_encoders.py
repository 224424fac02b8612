"""Frozen networks that make latents and embeddings for `i2i-prior prepare`."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from i2i_prior.data.crops import center_crop
from i2i_prior.data.examples import Field
from i2i_prior.data.prepare.encode import Encoding
from i2i_prior.errors import UserError
from i2i_prior.inference.encoder import Encoder, load_encoder
from i2i_prior.interop.autoencoders import functional_of, load_files
from i2i_prior.interop.files.hashing import files_of, hash_of
from i2i_prior.models.autoencoder import AUTOENCODERS
from i2i_prior.models.autoencoder_config import AutoencoderConfig

CHOICES = ("cls", "patches")
# Tiny autoencoder of the same latent space, for a pair of files.
_TINY = {
    "sd": "taesd",
    "sdxl": "taesdxl",
    "sd3": "taesd3",
    "flux": "taef1",
    "flux2": "taef2",
}


@dataclass(frozen=True)
class FrozenNetwork:
    """Network that encodes images into one field of an example."""

    name: str  # of the field
    # uint8 (H, W, 3) of any size -> input of the network
    preprocess: Callable[[np.ndarray], np.ndarray]
    # a batch of inputs, on the devices -> float (B, ...)
    encode: Callable[[jax.Array], jax.Array]
    record: dict[str, Any]  # of it in the manifest
    notes: Sequence[str]  # sentences on what its file did not state


def open_autoencoder(kind: str, weights: str, size: int) -> FrozenNetwork:
    """Opens an autoencoder from images to latents in the diffusion's scale.

    Its latents are (B, h, w, 2 C), mean and log variance, of an autoencoder
    with a Gaussian, else (B, h, w, C). The `kind` is a name of `AUTOENCODERS`,
    `weights` a file or folder, or `ENCODER,DECODER` of a tiny one, `size` the
    side of the encoded square in pixels. UserError where the file holds
    another network, or the size does not fit.
    """
    if not isinstance(AUTOENCODERS.get(kind), AutoencoderConfig):
        known = [name for name in AUTOENCODERS if name != "pixels"]
        raise UserError(
            f"--latents {kind} is unknown; choose one of {', '.join(known)}"
        )
    if len(files_of(weights)) == 2:
        kind = _TINY.get(kind, kind)
    config, parameters, notes = load_files(weights, kind)
    if size < 1 or size % config.factor:
        raise UserError(
            f"--latents {kind} needs --size, a multiple of "
            f"{config.factor}, not {size}"
        )
    known_shape = AUTOENCODERS[kind] == config
    return FrozenNetwork(
        "latent",
        lambda image: center_crop(image, size),
        _latents(config, parameters),
        {
            "kind": kind,
            "shape": "" if known_shape else config.to_json(),
            "sha256": hash_of(weights),
        },
        notes,
    )


def _latents(
    config: AutoencoderConfig, parameters: Mapping[str, Any]
) -> Callable[[jax.Array], jax.Array]:
    functional = functional_of(config)

    @jax.jit
    def encode(parameters: Mapping[str, Any], images: jax.Array) -> jax.Array:
        images = images.astype(jnp.float32) / 127.5 - 1
        module = functional.merge(dict(parameters))
        if config.kind == "kl":
            return jnp.concatenate(module.gaussian(images), -1)
        return module.encode(images)

    placed = jax.device_put(parameters, _sharding())
    return lambda images: encode(placed, images)


def open_encoder(text: str) -> FrozenNetwork:
    """Opens an image encoder by NAME=FILE[:cls|patches], `cls` by default.

    Its embeddings are (B, M, width): M is 1 for cls, else the patches.
    UserError where the text is malformed, or the file holds no image encoder.
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
    encoder.parameters = jax.device_put(encoder.parameters, _sharding())

    def encode(pixels: jax.Array) -> jax.Array:
        features = encoder(pixels)
        return features.cls[:, None] if choice == "cls" else features.patches

    def preprocess(image: np.ndarray) -> np.ndarray:
        return encoder.preprocess([image])[0]

    view = preprocess(np.zeros((8, 8, 3), np.uint8))
    record = {
        "family": encoder.config.family,
        "sha256": hash_of(path),
        "choice": choice,
        "view_size": view.shape[0],
        "pixels": encoder.pixels,
    }
    return FrozenNetwork(
        f"embedding/{name}", preprocess, encode, record, encoder.notes
    )


def make_encoding(
    networks: Sequence[FrozenNetwork], batch: int, dtype: str, flip: bool
) -> Encoding:
    """Encoding of images by networks of different names, in field order.

    `batch` images at once on each device of this process; results of `dtype`,
    "float16" or "bfloat16"; `flip` adds the mirrored image in second place.
    """
    rows = _sharding("batch")

    def preprocess(image: np.ndarray) -> dict[str, np.ndarray]:
        return {network.name: network.preprocess(image) for network in networks}

    def encode(seen: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        found = {}
        for network in networks:
            images = jax.device_put(seen[network.name], rows)
            variants = [images, images[:, :, ::-1]] if flip else [images]
            results = [network.encode(variant) for variant in variants]
            found[network.name] = jnp.stack(results, 1).astype(dtype)
        return found

    batch *= jax.local_device_count()
    empty = preprocess(np.zeros((8, 8, 3), np.uint8))
    one = {name: array[None].repeat(batch, 0) for name, array in empty.items()}
    made = jax.eval_shape(encode, one)
    fields = tuple(
        Field(network.name, "array", dtype, made[network.name].shape[1:])
        for network in networks
    )
    return Encoding(fields, preprocess, encode, batch)


def _sharding(*axes: str) -> NamedSharding:
    """Sharding over the devices of this process alone."""
    devices = jax.local_devices()
    mesh = jax.make_mesh(
        (len(devices),), ("batch",), (AxisType.Auto,), devices=devices
    )
    return NamedSharding(mesh, PartitionSpec(*axes))
