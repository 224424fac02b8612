"""The published families of image encoders, and an encoder's shape.

A family is a row of `FAMILIES`: the options of `models.vit` that its official
code corresponds to.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax

from i2i_prior.errors import UserError, check_known
from i2i_prior.models.layers import gelu_tanh, quick_gelu
from i2i_prior.models.precision import Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
}


class Features(NamedTuple):
    """Output of an image encoder, float32."""

    # (B, D), one vector for the image: the CLS token after the last norm; for
    # SigLIP, which has none, `pooled`; for I-JEPA, which has neither, the mean
    # of `patches`
    cls: Array
    # (B, N, D), row-major, after the last norm. (CLIP norms the CLS token only;
    # its patches are those of the last layer.)
    patches: Array
    # What the family compares images by: CLIP's projected CLS (B, P) or,
    # without a projection, `cls`; the output (B, D) of SigLIP's attention
    # pooling; None elsewhere
    pooled: Array | None = None


@dataclass(frozen=True)
class Family:
    """Options of a family of encoders."""

    cls: bool = True  # a CLS token comes before the patches
    activation: str = "gelu"  # of the MLP, a name of `ACTIVATIONS`
    epsilon: float = 1e-6  # of every LayerNorm
    # A learned gain on each branch (arXiv 2103.17239 Eq. 9).
    layer_scale: bool = False
    pre_norm: bool = False  # a LayerNorm ahead of the first block
    patch_bias: bool = True  # the patch embedding has a bias
    # The last norm sees patches too, not only the CLS token
    norm_patches: bool = True
    # SigLIP's pooling head (arXiv 2106.04560 section 3.3)
    attention_pool: bool = False
    # Cells added to the grid when positions are interpolated: the 0.1 of the
    # official DINO code
    position_offset: float = 0.0
    # Pixels at the right and the bottom that fill no patch are left out, as a
    # convolution does (SigLIP so400m: 384 by 14)
    partial_patches: bool = False


def _clip(activation: str) -> Family:
    return Family(
        activation=activation,
        epsilon=1e-5,
        pre_norm=True,
        patch_bias=False,
        norm_patches=False,
    )


_SIGLIP = Family(
    cls=False, activation="gelu_tanh", attention_pool=True, partial_patches=True
)
FAMILIES: dict[str, Family] = {
    "dino": Family(position_offset=0.1),  # arXiv 2104.14294, official code
    "dino_hf": Family(),  # the same weights as transformers runs them
    "dinov2": Family(layer_scale=True),  # arXiv 2304.07193, transformers
    "dinov2_hub": Family(layer_scale=True, position_offset=0.1),  # official
    "clip": _clip("quick_gelu"),  # arXiv 2103.00020
    "openclip": _clip("gelu"),  # arXiv 2212.07143
    "siglip": _SIGLIP,  # arXiv 2303.15343
    "siglip2": _SIGLIP,  # arXiv 2502.14786, fixed resolution
    "mae": Family(),  # arXiv 2111.06377, nothing masked
    "ijepa": Family(cls=False),  # arXiv 2301.08243
}


@dataclass(frozen=True)
class ViTConfig:
    """Shape of an encoder; the defaults are DINO v1 ViT-B/16."""

    # depth, width, heads: layers, channels D, attention heads
    depth: int = 12
    width: int = 768
    heads: int = 12
    # patch, image_size: sides in pixels; the position table has image_size //
    # patch cells a side
    patch: int = 16
    image_size: int = 224
    mlp_ratio: float = 4.0  # hidden width of the MLP over D
    precision: str = "float32"  # a name of `precision.PRECISIONS`
    family: str = "dino"  # a key of `FAMILIES`
    # Hidden width of the MLP where the ratio is no round number; 0 takes
    # mlp_ratio
    mlp_width: int = 0
    # Register tokens (arXiv 2309.16588) behind the CLS token
    registers: int = 0
    swiglu: bool = False  # a gated MLP, as in DINOv2's giant
    projection: int = 0  # width P of CLIP's projection, 0 for none
    epsilon: float = 0.0  # of every LayerNorm, 0 for the family's

    @property
    def hidden(self) -> int:
        """Hidden width of the MLP."""
        return self.mlp_width or int(self.mlp_ratio * self.width)

    @property
    def grid(self) -> int:
        """Cells of the position table a side."""
        return self.image_size // self.patch


def check(config: ViTConfig) -> None:
    """Raises UserError where no encoder can have this shape."""
    check_known("encoder.family", config.family, FAMILIES)
    family = FAMILIES[config.family]
    split = config.image_size % config.patch and not family.partial_patches
    if split or config.width % config.heads:
        raise UserError(
            f"encoder: patches of {config.patch} must divide the image "
            f"of {config.image_size}, {config.heads} heads the width "
            f"{config.width}"
        )
    if config.registers and not family.cls:
        raise UserError(
            f"encoder.registers {config.registers}: the family "
            f"{config.family} has no CLS token that they could follow; set 0"
        )
    if config.projection and family.norm_patches:
        raise UserError(
            f"encoder.projection {config.projection}: only the families clip "
            "and openclip have one; set 0"
        )
