"""Which networks a config trains with, and what each of their pieces is."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ml_collections import ConfigDict

from i2i_prior.flops.autoencoder_parts import autoencoder_parts
from i2i_prior.flops.dit_parts import (
    conditioner_parts,
    dit_parts,
)
from i2i_prior.flops.encoder_parts import vit_parts
from i2i_prior.flops.parts import (
    Part,
    Parts,
    total,
    untrained,
    unused,
)
from i2i_prior.models.dit_config import DiTConfig
from i2i_prior.tasks.resolve import Resolved, resolve


@dataclass(frozen=True)
class Network:
    """One network of a config.

    Attributes:
      parts: its pieces; `macs` are those of a training step's forward pass
        on one example: none where prepared latents stand in for it.
      trained: whether it has a backward pass.
    """

    parts: Parts
    trained: bool

    @property
    def whole(self) -> Part:
        """All its pieces together."""
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
    cached = config.data.cached
    parts = vit_parts(shapes.encoder, shapes.view_size)
    # What no condition is made of is not computed: CLIP's projection never,
    # SigLIP's pooled output where patches are chosen.
    idle = {"projection"}
    if config.conditioner.tokens_from != "cls":
        idle.add("pool")
    trained = config.encoder.kind == "joint"
    for name, part in parts.items():
        if name in idle or cached:
            part = unused(part)
        parts[name] = part if trained else untrained(part)
    return Network(parts, trained)


def _autoencoder(config: ConfigDict, shapes: Resolved) -> Network:
    parts = autoencoder_parts(shapes.latent, shapes.image_size)
    carried = shapes.has_autoencoder
    encodes = not config.data.cached
    for name, part in parts.items():
        if name != "encoder" or not encodes:
            part = unused(part)
        # Beside prepared latents the weights may be left out.
        parts[name] = (
            untrained(part) if carried else replace(part, parameters=0)
        )
    return Network(parts, trained=False)
