"""What remat computes a second time."""

from __future__ import annotations

from i2i_prior.flops.dit_parts import (
    dit_parts,
    mlp_hidden,
)
from i2i_prior.flops.parts import total
from i2i_prior.models.dit_config import DiTConfig, token_count


def recomputed_macs(dit: DiTConfig, tokens: int) -> int:
    """Multiply-adds of the second forward pass, of one example.

    Where the result of attention is kept, its scores still have to be made
    again: the softmax's derivative needs them.

    Args:
      dit: its `remat` says what is kept.
      tokens: condition tokens M.
    """
    if dit.remat == "none":
        return 0
    blocks = total(
        part
        for name, part in dit_parts(dit, tokens).items()
        if name.startswith("blocks/")
    )
    sums = blocks.scores // 2
    hidden = dit.depth * token_count(dit) * dit.width * mlp_hidden(dit)
    kept = {
        "full": 0,
        "attention": sums,
        "hidden": sums + hidden,
        "dots": blocks.macs - sums,  # all but the scores
    }
    return blocks.macs - kept[dit.remat]
