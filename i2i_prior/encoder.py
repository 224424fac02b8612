"""An image encoder on its own, out of an exported file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from i2i_prior.errors import UserError
from i2i_prior.interop import native
from i2i_prior.models.functional import Flat, make_functional
from i2i_prior.models.vit import Features, ViT
from i2i_prior.tasks.i2i import encoder_config


class Encoder:
    """An image encoder: normalised pixels in, `Features` out."""

    def __init__(self, config: ConfigDict, parameters: Flat):
        self._functional, _ = make_functional(
            lambda rngs: ViT(encoder_config(config), rngs=rngs)
        )
        prefix = "encoder/"
        self._parameters = {
            name.removeprefix(prefix): jnp.asarray(array)
            for name, array in parameters.items()
            if name.startswith(prefix)
        }
        self._forward = jax.jit(
            lambda parameters, pixels: self._functional.merge(parameters)(
                pixels
            )
        )

    def __call__(self, pixels: Any) -> Features:
        """pixels float (B, S, S, 3) -> cls (B, D), patches (B, N, D)."""
        return self._forward(self._parameters, jnp.asarray(pixels))


def load_encoder(path: str | Path) -> Encoder:
    """The encoder inside an exported safetensors file.

    Raises:
      UserError: where the file is missing or holds no encoder.
    """
    parameters, config = native.read(Path(path), "encoder/")
    if not parameters:
        raise UserError(f"{path} holds no encoder")
    return Encoder(config, parameters)
