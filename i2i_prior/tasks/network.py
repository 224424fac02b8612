"""All networks of a model under one tree of parameter names."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from ml_collections import ConfigDict

from i2i_prior.models.autoencoder import make_autoencoder
from i2i_prior.models.conditioner import Conditioner
from i2i_prior.models.dit import DiT
from i2i_prior.models.functional import Flat, Functional, make_functional
from i2i_prior.models.precision import PRECISIONS
from i2i_prior.models.vit import ViT
from i2i_prior.tasks.resolve import Resolved, resolve


class Networks(nnx.Module):
    """DiT, conditioner, image encoder and autoencoder.

    A condition that is given from outside needs no conditioner or encoder, a
    latent space whose weights are elsewhere no autoencoder: those are None.
    """

    def __init__(self, shapes: Resolved, *, rngs: nnx.Rngs):
        precision = shapes.dit.precision
        self.dit = DiT(shapes.dit, rngs=rngs)
        self.conditioner = shapes.conditioner and Conditioner(
            shapes.conditioner, rngs=rngs, precision=PRECISIONS[precision]
        )
        self.encoder = shapes.encoder and ViT(shapes.encoder, rngs=rngs)
        latent: Any = shapes.latent
        self.autoencoder = (
            make_autoencoder(latent, precision, rngs=rngs)
            if shapes.has_autoencoder
            else None
        )


def make_networks(
    shapes: Resolved,
) -> tuple[Functional, Callable[[jax.Array], Flat]]:
    """The networks as functions over named arrays, and their initialiser."""
    return make_functional(lambda rngs: Networks(shapes, rngs=rngs))


def parameter_shapes(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """name -> shape and dtype of all parameters, nothing allocated."""
    return make_networks(resolve(config))[0].shapes()
