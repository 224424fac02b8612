"""Transformer blocks of the DiT, a file for each family or related ones."""

from i2i_prior.models.blocks import lumos, modern
from i2i_prior.models.blocks.registry import BLOCKS

__all__ = ["BLOCKS", "lumos", "modern"]
