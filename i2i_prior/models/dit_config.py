"""Shape and family of a DiT, and what of it fits together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.models.attention_kernels import CHOICES
from i2i_prior.models.blocks import BLOCKS
from i2i_prior.models.mup import width_ratio
from i2i_prior.models.precision import PRECISIONS
from i2i_prior.models.scan import REMAT_POLICIES


@dataclass(frozen=True)
class DiTConfig:
    """Shape and family of a DiT.

    Attributes:
      block: a key of `blocks.BLOCKS`.
      depth, width, heads: layers, channels D, attention heads.
      patch: side of a patch in latent pixels.
      input_size: side of the latent H (= W) that the model is trained on.
      channels: latent channels C.
      learn_sigma: output 2C channels, the second half the variance logits.
      mlp_ratio: hidden width of the MLP over D.
      cross_attention: whether blocks have the tokens door at all.
      qk_norm: layer-normed queries and keys in self-attention (the modern
        block always has RMS-normed ones).
      pooled_width: P, 0 closes the pooled door.
      classes: class labels through the pooled door; label `classes` is the
        null class. 0 for none.
      size_conditions: image size and aspect ratio added to the time
        embedding (multi-scale models).
      concat_channels: K, 0 closes the concat door.
      base_size: tokens a side that positions are counted in; 0 for
        input_size / patch.
      position_scale: a further division of the positions (PixArt's
        `lewei_scale`).
      mup_base_width: width whose start and learning rates those of this width
        follow (`models.mup`); 0 for no muP.
      one_token: the tokens door gets a single unmasked token (fast path).
      precision: a name of `matmul.PRECISIONS`.
      remat: a name of `REMAT_POLICIES`.
      attention: one of `attention_kernels.CHOICES`.
      scan_unroll: layers per scan iteration; depth unrolls the loop (faster
        on CPU, longer compilation).
    """

    block: str = "lumos"
    depth: int = 28
    width: int = 1152
    heads: int = 16
    patch: int = 2
    input_size: int = 32
    channels: int = 4
    learn_sigma: bool = True
    mlp_ratio: float = 4.0
    cross_attention: bool = True
    qk_norm: bool = False
    pooled_width: int = 0
    classes: int = 0
    size_conditions: bool = False
    concat_channels: int = 0
    base_size: int = 0
    position_scale: float = 1.0
    mup_base_width: int = 0
    one_token: bool = False
    precision: str = "float32"
    remat: str = "none"
    attention: str = "auto"
    scan_unroll: int = 1

    @property
    def ratio(self) -> float:
        """muP's base width / width, 1 without muP."""
        return width_ratio(self.mup_base_width, self.width)

    @property
    def out_channels(self) -> int:
        """Channels of the raw output."""
        return self.channels * (2 if self.learn_sigma else 1)


def check_config(config: DiTConfig) -> None:
    """Raises UserError where no network can have this shape."""
    for name, value, known in (
        ("block", config.block, BLOCKS),
        ("precision", config.precision, PRECISIONS),
        ("remat", config.remat, REMAT_POLICIES),
        ("attention", config.attention, CHOICES),
    ):
        if value not in known:
            raise UserError(
                f"model.{name} {value!r} is unknown; choose one of "
                f"{', '.join(known)}"
            )
    if config.width % config.heads or (config.width // config.heads) % 2:
        raise UserError(
            f"model.width {config.width} does not split into "
            f"{config.heads} heads of even width; change model.width or "
            "model.heads"
        )
    if config.width % 4:
        raise UserError(
            f"model.width {config.width} must be divisible by 4 for its 2-D "
            "position table"
        )
    if config.pooled_width and config.classes:
        raise UserError(
            "the pooled door takes class labels or vectors, not both; set "
            "one of classes and pooled_width to 0"
        )
    if config.size_conditions and config.width % 3:
        raise UserError(
            f"model.width {config.width} must be divisible by 3 for size and "
            "aspect conditions"
        )
    if config.input_size % config.patch:
        raise UserError(
            f"a latent of {config.input_size} pixels a side does not split "
            f"into patches of {config.patch}; change model.patch or "
            "data.image_size"
        )


def check_inputs(
    config: DiTConfig, tokens, pooled, concat, size, aspect
) -> None:
    """Raises UserError where a condition has no door, or a door none."""
    for name, given, door in (
        ("tokens", tokens, config.cross_attention),
        ("pooled", pooled, config.pooled_width + config.classes > 0),
        ("concat", concat, config.concat_channels > 0),
        ("size", size, config.size_conditions),
        ("aspect", aspect, config.size_conditions),
    ):
        if (given is not None) != door:
            has = "takes" if door else "takes no"
            got = "none was" if given is None else "one was"
            raise UserError(f"this DiT {has} {name} condition, but {got} given")


def frozen_names(config: DiTConfig) -> tuple[str, ...]:
    """Regular expressions of DiT parameters that get no gradient."""
    if config.cross_attention and config.one_token:
        return (r"blocks/cross_attention/(q|k|q_norm|k_norm)/",)
    return ()


def token_count(config: DiTConfig) -> int:
    """Image tokens N at the training size."""
    return int(np.prod([config.input_size // config.patch] * 2))
