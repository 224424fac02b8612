"""A DiT whose places tell what passes through them, for looking only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from i2i_prior.models.dit import DiT
from i2i_prior.models.precision import Array

PLACES = (
    "first block",
    "middle block",
    "last block",
    "attention",
    "MLP",
    "output",
)


class Watched:
    """Called as the DiT that it wraps, with the same result.

    Layers run one by one and not in a scan, which lets nothing out.

    Attributes:
      seen: after a call, a name of `PLACES` -> array. Blocks are the residual
        stream (B, N, D) behind them, attention and MLP what those of the
        middle block give before their gates, (B, N, D), output what the call
        returns. A DiT of fewer than three layers has fewer blocks to name.
    """

    def __init__(self, dit: DiT):
        self.dit = dit
        self.seen: dict[str, Array] = {}

    def __call__(self, x: Array, timestep: Array, **doors: Any) -> Array:
        """What `DiT.__call__` returns."""
        dit = self.dit
        patch, last = dit.config.patch, dit.config.depth - 1
        middle = dit.config.depth // 2
        names = {middle: "middle block", last: "last block", 0: "first block"}
        h, time, body = dit.enter(x, timestep, **doors)
        for layer in range(dit.config.depth):
            block: Any = jax.tree.map(lambda a, i=layer: a[i], dit.blocks)
            if layer == middle:
                block.attention = self._tap("attention", block.attention)
                block.mlp = self._tap("MLP", block.mlp)
            h = body(h, block)
            if layer in names:
                self.seen[names[layer]] = h
        grid = (x.shape[1] // patch, x.shape[2] // patch)
        self.seen["output"] = dit.leave(h, time, grid)
        return self.seen["output"]

    def _tap(self, name: str, part: Callable[..., Array]):
        def told(*inputs: Any, **named: Any) -> Array:
            self.seen[name] = part(*inputs, **named)
            return self.seen[name]

        return told
