"""Shape of a DiT, and the conditions that it takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from i2i_prior.errors import UserError
from i2i_prior.models.mup import width_ratio


@dataclass(frozen=True)
class DiTConfig:
    """Shape and family of a DiT."""

    block: str = "lumos"  # a family of `models.blocks`
    # depth, width, heads: layers, channels D, attention heads
    depth: int = 28
    width: int = 1152
    heads: int = 16
    patch: int = 2  # side of a patch in latent pixels
    # Side of the latent H (= W) that the model is trained on
    input_size: int = 32
    channels: int = 4  # latent channels C
    # Output 2C channels, the second half the variance logits
    learn_sigma: bool = True
    mlp_ratio: float = 4.0  # hidden width of the MLP over D
    cross_attention: bool = True  # blocks take condition tokens
    # Layer-normed queries and keys in self-attention (the modern block always
    # has RMS-normed ones)
    qk_norm: bool = False
    pooled_width: int = 0  # P, width of a pooled condition; 0 for none
    # Class labels as the pooled condition; label `classes` is the null class. 0
    # for none.
    classes: int = 0
    # Image size and aspect ratio added to the time embedding (multi-scale
    # models)
    size_conditions: bool = False
    concat_channels: int = 0  # K, channels of the concat condition; 0 for none
    # Tokens a side that positions are counted in; 0 for input_size / patch
    base_size: int = 0
    # A further division of the positions (PixArt's `lewei_scale`)
    position_scale: float = 1.0
    # Width whose start and learning rates those of this width follow
    # (`models.mup`); 0 for no muP
    mup_base_width: int = 0
    # The condition is a single unmasked token (fast path)
    one_token: bool = False
    precision: str = "float32"  # a name of `precision.PRECISIONS`
    remat: str = "none"  # a name of `REMAT_POLICIES`
    attention: str = "auto"  # one of `attention_kernels.CHOICES`
    # Layers per scan iteration; depth unrolls the loop (faster on CPU, longer
    # compilation)
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


def check_inputs(config: DiTConfig, given: Mapping[str, Any]) -> None:
    """Raises UserError for a missing condition, or one that is not taken."""
    doors = {
        "tokens": config.cross_attention,
        "pooled": config.pooled_width + config.classes > 0,
        "concat": config.concat_channels > 0,
        "size": config.size_conditions,
        "aspect": config.size_conditions,
    }
    for name, door in doors.items():
        missing = given.get(name) is None
        if missing == door:
            has = "takes" if door else "takes no"
            got = "none was" if missing else "one was"
            raise UserError(f"this DiT {has} {name} condition, but {got} given")


def token_count(config: DiTConfig) -> int:
    """Image tokens N at the training size."""
    return (config.input_size // config.patch) ** 2
