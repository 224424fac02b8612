"""Activations of a DiT at named places, for inspection."""

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


class ActivationTaps:
    """Records activations of a DiT; called like it, with the same result.

    Layers run one by one and not in a scan, which lets nothing out.

    Attributes:
      seen: after a call, a name of `PLACES` -> array. Blocks are the residual
        stream (B, N, D) behind them, attention and MLP the outputs of those
        of the middle block before their gates, (B, N, D), output the result
        of the call. A DiT of fewer than three layers has fewer of the blocks.
    """

    def __init__(self, dit: DiT):
        self.dit = dit
        self.seen: dict[str, Array] = {}

    def __call__(
        self,
        x: Array,
        timestep: Array,
        tokens: Array | None = None,
        mask: Array | None = None,
        concat: Array | None = None,
        **conditions: Any,
    ) -> Array:
        """Result of `DiT.__call__`; `conditions` are pooled, size, aspect."""
        dit = self.dit
        patch, last = dit.config.patch, dit.config.depth - 1
        middle = dit.config.depth // 2
        names = {middle: "middle block", last: "last block", 0: "first block"}
        grid = (x.shape[1] // patch, x.shape[2] // patch)
        h = dit.embed_inputs(x, concat)
        time = dit.embed_time(timestep, **conditions)
        body = dit.layer(time, tokens, mask, grid)
        for layer in range(dit.config.depth):
            block: Any = jax.tree.map(lambda a, i=layer: a[i], dit.blocks)
            if layer == middle:
                block.attention = self._tap("attention", block.attention)
                block.mlp = self._tap("MLP", block.mlp)
            h = body(h, block)
            if layer in names:
                self.seen[names[layer]] = h
        self.seen["output"] = dit.project_out(h, time, grid)
        return self.seen["output"]

    def _tap(self, name: str, part: Callable[..., Array]):
        def tapped(*inputs: Any, **named: Any) -> Array:
            self.seen[name] = part(*inputs, **named)
            return self.seen[name]

        return tapped
