"""This project's own weight file: one safetensors, config in its header.

Names are those of `models.functional`, layers stacked on the first axis,
kernels (in, out), float32. Nothing is unpickled.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from safetensors import SafetensorError, safe_open

from i2i_prior.config import flatten, from_flat, recorded
from i2i_prior.errors import UserError
from i2i_prior.interop.files import safetensors
from i2i_prior.interop.files.lazy_tensor import Stored
from i2i_prior.parallel.global_arrays import place

FORMAT = "i2i_prior/1"


def write(
    path: Path,
    parameters: dict[str, Any],
    config: ConfigDict,
    provenance: dict[str, Any],
) -> int:
    """Writes parameters beside, then renames.

    Args:
      path: the file, ending in .safetensors.
      parameters: name -> array.
      config: of the run, kept in the header.
      provenance: more facts for the header (step, hash, fingerprint).

    Returns:
      bytes written.

    Raises:
      UserError: where the place cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"--out {path} should end in .safetensors")
    tensors = {
        # From the devices when it is written: one tensor in memory at a time
        # (jax.device_get would keep a copy of each, on CPU too).
        name: Stored(
            tuple(array.shape), array.dtype.name, partial(np.asarray, array)
        )
        for name, array in parameters.items()
    }
    header = {
        "format": FORMAT,
        "config": json.dumps(recorded(flatten(config))),
        "provenance": json.dumps(provenance),
    }
    return safetensors.write(path, tensors, header)


def is_native(path: Path) -> bool:
    """Whether a file is one that `write` wrote."""
    try:
        with safe_open(str(path), framework="numpy") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (OSError, SafetensorError):
        return False


def open_file(path: Path) -> tuple[dict[str, Stored], ConfigDict]:
    """What a file that `write` wrote holds, no array read yet.

    Returns:
      name -> tensor to be read when it is wanted, and the config of its run.

    Raises:
      UserError: where it is missing, no safetensors, or another layout.
    """
    try:
        with safe_open(str(path), framework="numpy") as file:
            header = file.metadata() or {}
    except FileNotFoundError as error:
        raise UserError(f"no weight file {path}") from error
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} is not a readable safetensors file ({error})"
        ) from error
    if header.get("format") != FORMAT:
        raise UserError(
            f"{path} is not a file that `i2i-prior export` wrote (its header "
            "names no such format)"
        )
    config = from_flat(json.loads(header["config"]), note=False)
    return safetensors.read(path), config


def read(
    path: Path, prefix: str = ""
) -> tuple[dict[str, np.ndarray], ConfigDict]:
    """Reads the arrays whose names start with `prefix`; see `open_file`."""
    tensors, config = open_file(path)
    arrays = {
        name: tensor.read()
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    return arrays, config


def load_encoder_into(
    frozen: dict[str, jax.Array], path: Path, encoder: ConfigDict
) -> dict[str, jax.Array]:
    """Replaces the encoder's arrays by those of a file.

    Args:
      frozen: the frozen parameters of a fresh state, by name.
      path: what `export --part encoder` (or a whole export) wrote.
      encoder: the `encoder` section that the state was made with.

    Raises:
      UserError: where the file holds no such encoder.
    """
    loaded, config = read(path, "encoder/")
    for name in ("heads", "pixels"):  # shapes do not tell these
        if encoder[name] != config.encoder[name]:
            raise UserError(
                f"the encoder in {path} has encoder.{name}="
                f"{config.encoder[name]}, not {encoder[name]}; match the "
                "encoder section to the file"
            )
    result = dict(frozen)
    for name, old in frozen.items():
        if not name.startswith("encoder/"):
            continue
        if name not in loaded or loaded[name].shape != old.shape:
            raise UserError(
                f"{path} holds no encoder of this shape ({name} should be "
                f"{old.shape}); match the encoder section to the file"
            )
        result[name] = place(loaded[name], old.sharding)
    return result
