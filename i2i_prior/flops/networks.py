"""The networks that a config trains with, and the parts of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from i2i_prior.flops.cache import cached
from i2i_prior.flops.trace import (
    Part,
    Parts,
    count_parts,
    count_recomputed,
    total,
    untrained,
    unused,
)
from i2i_prior.models.autoencoder import Pixels, make_autoencoder
from i2i_prior.models.autoencoder_config import AutoencoderConfig
from i2i_prior.models.conditioner import Conditioner, ConditionerConfig
from i2i_prior.models.dit import DiT, DiTConfig, frozen_names
from i2i_prior.models.encoder_families import Features, ViTConfig
from i2i_prior.models.functional import make_functional
from i2i_prior.models.vit import ViT
from i2i_prior.tasks.resolve import Resolved, resolve

# Parts of an encoder: all of a scope or of parameters by these names.
_ENCODER_ROWS = {
    "patch_embed": "patch_embed",
    **dict.fromkeys(("cls", "positions", "registers"), "tokens"),
    **dict.fromkeys(("norm", "pre_norm"), "norms"),
    **dict.fromkeys(("blocks/norm1", "blocks/norm2"), "blocks/norms"),
    "blocks/attention": "blocks/attention",
    "blocks/mlp": "blocks/mlp",
    **dict.fromkeys(("blocks/scale1", "blocks/scale2"), "blocks/scales"),
}
_AUTOENCODER_ROWS = {
    **dict.fromkeys(("encoder", "quant_conv"), "encoder"),
    **dict.fromkeys(("decoder", "post_quant_conv"), "decoder"),
}


@dataclass(frozen=True)
class Network:
    """One network of a config.

    Attributes:
      parts: its parts; `macs` are those of a training step's forward pass
        on one example: none where prepared latents take its place.
      trained: it has a backward pass.
    """

    parts: Parts
    trained: bool

    @property
    def whole(self) -> Part:
        """Sum of its parts."""
        return total(self.parts.values())


@dataclass(frozen=True)
class Networks:
    """All networks of a config.

    Attributes:
      dit: the DiT's shape.
      condition_tokens: M, as its cross-attention sees them; 0 without one.
      by_name: "dit", and where there are such "conditioner", "encoder" and
        "autoencoder".
    """

    dit: DiTConfig
    condition_tokens: int
    by_name: dict[str, Network]


def networks(config: ConfigDict) -> Networks:
    """The networks of a config; no arrays are made."""
    shapes = resolve(config)
    dit, conditioner = shapes.dit, shapes.conditioner
    found, tokens = {}, 0
    if conditioner is not None:
        tokens = conditioner.tokens
        found["conditioner"] = Network(conditioner_parts(conditioner), True)
    found["dit"] = Network(dit_parts(dit, tokens), True)
    if shapes.encoder is not None:
        found["encoder"] = _encoder(config, shapes)
    if config.autoencoder.kind != "pixels":
        found["autoencoder"] = _autoencoder(config, shapes)
    return Networks(dit, tokens, found)


def _encoder(config: ConfigDict, shapes: Resolved) -> Network:
    assert shapes.encoder is not None
    patches = config.conditioner.tokens_from != "cls"
    parts = vit_parts(shapes.encoder, shapes.view_size, patches)
    trained = config.encoder.kind == "joint"
    for name, part in parts.items():
        if config.data.cached:
            part = unused(part)
        parts[name] = part if trained else untrained(part)
    return Network(parts, trained)


def _autoencoder(config: ConfigDict, shapes: Resolved) -> Network:
    parts = autoencoder_parts(shapes.latent, shapes.image_size)
    # The source image of a pair is encoded as well.
    images = 1 + (config.conditioner.concat_from == "source")
    for name, part in parts.items():
        used = name == "encoder" and not config.data.cached
        macs = images * part.macs if used else 0
        scores = images * part.scores if used else 0
        # Prepared latents need no weights.
        parameters = part.parameters if shapes.has_autoencoder else 0
        parts[name] = Part(parameters, macs, scores, parameters)
    return Network(parts, trained=False)


def dit_parts(config: DiTConfig, condition_tokens: int) -> Parts:
    """Parts of a DiT, those of the blocks over all layers.

    Args:
      config: its shape; `one_token` takes the fast path where there is one
        condition token, and freezes the queries and keys it leaves unused.
      condition_tokens: M, 0 for none.
    """
    parts = _dit_parts(_one_layer(config, remat="none"), condition_tokens)
    return _repeat_blocks(parts, config.depth)


def recomputed_macs(config: DiTConfig, condition_tokens: int) -> int:
    """Multiply-adds of the forward pass that remat runs a second time.

    Args:
      config: its `remat` decides what is kept.
      condition_tokens: M, 0 for none.
    """
    if config.remat == "none":
        return 0
    one = _recomputed_macs(_one_layer(config), condition_tokens)
    return config.depth * one


def conditioner_parts(config: ConditionerConfig) -> Parts:
    """Parts of a conditioner, on the features of one image."""
    return _conditioner_parts(replace(config, mup_base_width=0))


def vit_parts(
    config: ViTConfig, image_size: int = 0, patches: bool | None = None
) -> Parts:
    """Parts of an image encoder, those of the blocks over all layers.

    The interpolation of its positions is left out: it runs once a batch.

    Args:
      config: its shape.
      image_size: side of the image in pixels, where it is not the config's.
      patches: the output that is used, patch tokens or `Features.cls`; None
        for all of them.
    """
    one = _one_layer(config)
    parts = _vit_parts(one, image_size or config.image_size, patches)
    return _repeat_blocks(parts, config.depth)


def autoencoder_parts(
    config: AutoencoderConfig | Pixels, image_size: int
) -> Parts:
    """Encoder and decoder, each with its 1x1 convolution; none for pixels.

    Args:
      config: the latent space.
      image_size: side in pixels, a multiple of the factor.
    """
    if isinstance(config, Pixels):
        return {}
    return _autoencoder_parts(config, image_size)


def _one_layer(config: Any, **changes: Any) -> Any:
    """A config of the same products a layer, with fewer distinct values."""
    if isinstance(config, DiTConfig):
        changes |= {"attention": "xla", "scan_unroll": 1, "mup_base_width": 0}
    return replace(config, depth=1, precision="float32", **changes)


def _repeat_blocks(parts: Parts, depth: int) -> Parts:
    return {
        name: part * depth if name.startswith("blocks/") else part
        for name, part in parts.items()
    }


def _array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def dit_inputs(config: DiTConfig, condition_tokens: int) -> tuple[Any, ...]:
    """Shapes of (x, timestep, conditions by name) of a DiT, for one image."""
    side = config.input_size
    conditions = {}
    if config.cross_attention:
        conditions["tokens"] = _array(1, condition_tokens, config.width)
    if config.classes:
        conditions["pooled"] = _array(1, dtype=jnp.int32)
    elif config.pooled_width:
        conditions["pooled"] = _array(1, config.pooled_width)
    if config.concat_channels:
        conditions["concat"] = _array(1, side, side, config.concat_channels)
    if config.size_conditions:
        conditions |= {"size": _array(1, 2), "aspect": _array(1, 1)}
    return _array(1, side, side, config.channels), _array(1), conditions


def _call_dit(dit: DiT, x: Any, timestep: Any, conditions: Any) -> Any:
    return dit(x, timestep, **conditions)


@cached
def _dit_parts(config: DiTConfig, condition_tokens: int) -> Parts:
    return count_parts(
        lambda rngs: DiT(config, rngs=rngs),
        _call_dit,
        *dit_inputs(config, condition_tokens),
        frozen="|".join(frozen_names(config)) or r"(?!)",
    )


@cached
def _recomputed_macs(config: DiTConfig, condition_tokens: int) -> int:
    functional, _ = make_functional(lambda rngs: DiT(config, rngs=rngs))
    x, timestep, conditions = dit_inputs(config, condition_tokens)

    def loss(values: Any, tokens: Any, x: Any, timestep: Any, others: Any):
        given = others if tokens is None else {**others, "tokens": tokens}
        return _call_dit(functional.merge(values), x, timestep, given).sum()

    return count_recomputed(
        jax.grad(loss, argnums=(0, 1)),
        functional.shapes(),
        conditions.pop("tokens", None),
        x,
        timestep,
        conditions,
    )


@cached
def _conditioner_parts(config: ConditionerConfig) -> Parts:
    width, patches = config.embedding_width, config.patches

    def call(conditioner: Conditioner, cls: Any, patches: Any) -> Any:
        if config.tokens_from == "tokens":
            return conditioner(patches)
        return conditioner(conditioner.choose(Features(cls, patches)))

    count = config.length if config.tokens_from == "tokens" else patches
    return count_parts(
        lambda rngs: Conditioner(config, rngs=rngs),
        call,
        *(_array(1, width), _array(1, count, width)),
        rows={"null": "null"},
        frozen="^null$" if config.null == "random" else r"(?!)",
    )


@cached
def _vit_parts(
    config: ViTConfig, image_size: int, patches: bool | None
) -> Parts:
    def call(encoder: ViT, pixels: Any) -> Any:
        features = encoder(pixels)
        if patches is None:
            return features
        return features.patches if patches else features.cls

    parts = count_parts(
        lambda rngs: ViT(config, rngs=rngs),
        call,
        _array(1, image_size, image_size, 3),
        rows=_ENCODER_ROWS,
    )
    parts.pop("interpolate", None)
    return parts


@cached
def _autoencoder_parts(config: AutoencoderConfig, image_size: int) -> Parts:
    def call(autoencoder: Any, images: Any, latents: Any) -> Any:
        with jax.named_scope("encoder"):
            encoded = autoencoder.encode(images)
        with jax.named_scope("decoder"):
            return encoded, autoencoder.decode(latents)

    side = image_size // config.factor
    return count_parts(
        lambda rngs: make_autoencoder(config, rngs=rngs),
        call,
        _array(1, image_size, image_size, 3),
        _array(1, side, side, config.channels),
        rows=_AUTOENCODER_ROWS,
    )
