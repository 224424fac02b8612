"""Frozen networks from files: image encoder and autoencoder.

`add_encoder` and `add_autoencoder` complete a published prior, which comes
without them; `load_frozen` fills a new training state with those of
`encoder.weights` and `autoencoder.weights`.
"""

from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from i2i_prior.errors import UserError, check_known
from i2i_prior.interop import autoencoders, encoders, native
from i2i_prior.interop.files.state_dicts import read_state_dict
from i2i_prior.models.autoencoder import AUTOENCODERS
from i2i_prior.models.preprocess import PREPROCESSING
from i2i_prior.parallel.global_arrays import place
from i2i_prior.tasks.resolve import resolve

Flat = dict[str, np.ndarray]


def add_encoder(
    config: ConfigDict,
    path: str | Path,
    heads: int | None = None,
    family: str | None = None,
) -> tuple[Flat, list[str]]:
    """Adds a published image encoder to a config, changed in place.

    The weights are of a layout of `interop.encoders`; `heads` and `family` are
    as for `encoders.load`. Returns encoder/... -> float32 array, and notes.
    UserError where the model has one, the file is no encoder, or its embeddings
    do not have the width of the model's conditions.
    """
    section = config.encoder
    if section.kind != "none":
        raise _has_own("image encoder", "encoder")
    shape, loaded, notes = encoders.load(
        read_state_dict(path), heads=heads, family=family
    )
    if config.conditioner.tokens_from not in ("cls", "patches", "pyramid"):
        raise UserError(
            "this model is not conditioned on images, so it takes no image "
            "encoder; load it without encoder"
        )
    if shape.width != section.width:
        raise UserError(
            f"{path} embeds into {shape.width} channels, but this model is "
            f"conditioned on {section.width}"
        )
    section.kind, section.pixels = "frozen", "family"
    section.weights = str(path)
    section.update({k: v for k, v in vars(shape).items() if k in section})
    # DINOv2 was trained at 518 pixels, and its inputs have 224.
    section.view_size = PREPROCESSING[shape.family].size
    return _prefixed("encoder/", loaded), notes


def add_autoencoder(
    config: ConfigDict, path: str | Path, preset: str | None = None
) -> tuple[Flat, list[str]]:
    """Adds a published autoencoder to a config, changed in place.

    The path is a file or folder, or both files of a tiny pair as
    `ENCODER,DECODER`; `preset` is a name of `AUTOENCODERS` (see
    `autoencoders.load`). Returns autoencoder/... -> float32 array, and notes.
    UserError where the model has one, the file is no autoencoder, or its
    latents do not have the model's shape.
    """
    section = config.autoencoder
    if section.weights:
        raise _has_own("autoencoder", "autoencoder")
    before = resolve(config).latent
    shape, loaded, notes = _read_autoencoder(path, preset)
    if (shape.channels, shape.factor) != (before.channels, before.factor):
        raise UserError(
            f"{path} has latents of {shape.channels} channels at 1/"
            f"{shape.factor}, but this model has {before.channels} at 1/"
            f"{before.factor}"
        )
    # Some presets have the same shape: the given name comes first.
    order = [preset or section.kind, *AUTOENCODERS]
    names = [name for name in order if AUTOENCODERS[name] == shape]
    section.kind = names[0] if names else order[0]
    section.shape = "" if names else shape.to_json()
    section.weights = str(path)
    return _prefixed("autoencoder/", loaded), notes


def _has_own(network: str, option: str) -> UserError:
    return UserError(
        f"this model carries its own {network}; load it without {option}"
    )


def _read_autoencoder(path: str | Path, preset: str | None):
    if preset is not None:
        check_known("autoencoder kind", preset, AUTOENCODERS)
    return autoencoders.load_files(path, preset)


def load_frozen(frozen: dict[str, Any], config: ConfigDict) -> dict[str, Any]:
    """Replaces a new state's frozen networks by those of their files.

    The files are `encoder.weights` and `autoencoder.weights` of the run's
    config; `frozen` has the frozen parameters by name, sharded. UserError where
    a file does not hold the network of the config.
    """
    encoder, autoencoder = config.encoder, config.autoencoder
    if encoder.kind == "frozen" and encoder.weights != "random":
        frozen = _load_encoder(frozen, config)
    if autoencoder.weights not in ("", "random"):
        preset = None if autoencoder.shape else autoencoder.kind
        shape, loaded, _ = _read_autoencoder(autoencoder.weights, preset)
        _require_equal(autoencoder.weights, shape, resolve(config).latent)
        frozen = _placed(frozen, _prefixed("autoencoder/", loaded))
    return frozen


def _load_encoder(frozen: dict[str, Any], config: ConfigDict):
    section = config.encoder
    if native.is_native(Path(section.weights)):
        loaded = _native_encoder(frozen, Path(section.weights), section)
        return _placed(frozen, loaded)
    shape, loaded, _ = encoders.load(
        read_state_dict(section.weights),
        heads=section.heads,
        family=section.family,
    )
    wanted = resolve(config).encoder
    _require_equal(section.weights, shape, wanted, ("precision", "mlp_ratio"))
    return _placed(frozen, _prefixed("encoder/", loaded))


def _native_encoder(
    frozen: dict[str, Any], path: Path, encoder: ConfigDict
) -> Flat:
    """Reads the encoder of an export; `encoder` is the config's section."""
    loaded, config = native.read(path, "encoder/")
    for name in ("heads", "pixels"):  # not implied by shapes
        if encoder[name] != config.encoder[name]:
            raise UserError(
                f"the encoder in {path} has encoder.{name}="
                f"{config.encoder[name]}, not {encoder[name]}; match the "
                "encoder section to the file"
            )
    for name, old in frozen.items():
        if name.startswith("encoder/") and (
            name not in loaded or loaded[name].shape != old.shape
        ):
            raise UserError(
                f"{path} holds no encoder of this shape ({name} should be "
                f"{old.shape}); match the encoder section to the file"
            )
    return loaded


def _require_equal(
    path: str, found: Any, wanted: Any, ignored: tuple = ()
) -> None:
    differing = [
        f"{name} {getattr(found, name)!r} there, {value!r} in the config"
        for name, value in vars(wanted).items()
        if name not in ignored and getattr(found, name) != value
    ]
    if differing:
        raise UserError(
            f"{path} is not the network of this config "
            f"({'; '.join(differing[:3])}); match the config to the file"
        )


def _prefixed(prefix: str, loaded: Flat) -> Flat:
    return {prefix + name: array for name, array in loaded.items()}


def _placed(frozen: dict[str, Any], loaded: Flat) -> dict[str, Any]:
    return frozen | {
        name: place(loaded[name], old.sharding)
        for name, old in frozen.items()
        if name in loaded
    }
