"""Shape of a DiT, and the conditions that it takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.models.mup import width_ratio


@dataclass(frozen=True)
class DiTConfig:
    """Shape and family of a DiT.

    Attributes:
      block: a family of `models.blocks`.
      depth, width, heads: layers, channels D, attention heads.
      patch: side of a patch in latent pixels.
      input_size: side of the latent H (= W) that the model is trained on.
      channels: latent channels C.
      learn_sigma: output 2C channels, the second half the variance logits.
      mlp_ratio: hidden width of the MLP over D.
      cross_attention: blocks take condition tokens.
      qk_norm: layer-normed queries and keys in self-attention (the modern
        block always has RMS-normed ones).
      pooled_width: P, width of a pooled condition; 0 for none.
      classes: class labels as the pooled condition; label `classes` is the
        null class. 0 for none.
      size_conditions: image size and aspect ratio added to the time
        embedding (multi-scale models).
      concat_channels: K, channels of the concat condition; 0 for none.
      base_size: tokens a side that positions are counted in; 0 for
        input_size / patch.
      position_scale: a further division of the positions (PixArt's
        `lewei_scale`).
      mup_base_width: width whose start and learning rates those of this width
        follow (`models.mup`); 0 for no muP.
      one_token: the condition is a single unmasked token (fast path).
      precision: a name of `precision.PRECISIONS`.
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

    @property
    def patch_outputs(self) -> int:
        """Features of the raw output of one token."""
        return self.patch**2 * self.out_channels


def check_inputs(
    config: DiTConfig, tokens, pooled, concat, size, aspect
) -> None:
    """Raises UserError for a missing condition, or one that is not taken."""
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


def token_count(config: DiTConfig) -> int:
    """Image tokens N at the training size."""
    return int(np.prod([config.input_size // config.patch] * 2))
