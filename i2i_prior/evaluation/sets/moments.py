"""Moments of features: float32 sums on the devices, joined in float64."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from i2i_prior.evaluation.features.extractor import Extractor
from i2i_prior.evaluation.measures.statistics import FeatureStatistics


class BlockMoments:
    """The blocks of one tap while they grow.

    Args:
        extractor: of the features.
        tap: one of its taps.
        blocks: how many; row r of the whole belongs to block r modulo that.
        share: (first, stride) of the rows here, see `collect`.
        rows: how batches lie on the devices of this process.
    """

    def __init__(
        self,
        extractor: Extractor,
        tap: str,
        blocks: int,
        share: tuple[int, int],
        rows: NamedSharding,
    ) -> None:
        dim = extractor.taps[tap]
        name = f"{extractor.name}:{tap}"
        self._blocks = [FeatureStatistics(dim, name) for _ in range(blocks)]
        self._traced = extractor.traced
        self._share = share
        spec = PartitionSpec(None, *rows.spec)
        self._sharding = NamedSharding(rows.mesh, spec)
        self._pending: Callable[[], None] | None = None

    def add(self, window: list[Any], first: int, rows: int) -> None:
        """Takes a window of features whose first is row `first` here.

        What it has to wait for is waited for in the next call.
        """
        start, stride = self._share
        numbers = start + stride * (first + np.arange(rows))
        blocks = len(self._blocks)
        places = [
            np.flatnonzero(numbers % blocks == block) for block in range(blocks)
        ]
        used = [block for block in range(blocks) if len(places[block])]
        if not self._traced:
            features = np.concatenate([np.asarray(part) for part in window])
            for block in used:
                self._blocks[block].update(features[places[block]])
            return
        # As many for every block of every window of this length.
        groups = blocks // math.gcd(blocks, stride)
        most = -(-sum(map(len, window)) // groups)
        shards = self._sharding.mesh.size
        shape = groups, -(-most // shards) * shards
        taken, mask = np.zeros(shape, np.int32), np.zeros(shape, bool)
        for group, block in enumerate(used):
            taken[group, : len(places[block])] = places[block]
            mask[group, : len(places[block])] = True
        sums = _moments(tuple(window), taken, mask, self._sharding)
        self.wait()
        self._pending = functools.partial(self._join, used, sums)

    def wait(self) -> None:
        """Joins what the devices have computed."""
        if self._pending is not None:
            self._pending()
        self._pending = None

    def finish(self) -> list[FeatureStatistics]:
        """The blocks, once all windows are in."""
        self.wait()
        return self._blocks

    def _join(self, used: list[int], sums: Any) -> None:
        for group, block in enumerate(used):
            count, mean, left, moment = (
                np.asarray(part[group], np.float64) for part in sums
            )
            # What rounding left of the mean moves from the moment to it.
            left = left / count
            moment -= np.outer(count * left, left)
            name = self._blocks[block].features
            self._blocks[block].merge(
                FeatureStatistics.of(int(count), mean + left, moment, name)
            )


@functools.partial(jax.jit, static_argnames="sharding")
def _moments(
    window: tuple[jax.Array, ...],
    taken: jax.Array,
    mask: jax.Array,
    sharding: NamedSharding,
) -> tuple[jax.Array, ...]:
    """Of each block of a window, in float32.

    Args:
        window: features (n, d).
        taken: (blocks, rows), which of them are a block's.
        mask: (blocks, rows), False for places that are empty.
        sharding: of (blocks, rows, ...).

    Returns:
        counts (blocks,), means (blocks, d), sums of what is left around them
        (blocks, d), centred second moments (blocks, d, d).
    """
    features = jnp.concatenate(window).astype(jnp.float32)
    rows = jax.lax.with_sharding_constraint(features[taken], sharding)
    here = mask[..., None]
    count = mask.sum(1)
    total = jnp.where(here, rows, 0).sum(1)
    mean = total / jnp.maximum(count, 1)[:, None]
    centred = jnp.where(here, rows - mean[:, None], 0)
    moment = jnp.einsum(
        "brd,bre->bde", centred, centred, precision=jax.lax.Precision.HIGHEST
    )
    return count, mean, centred.sum(1), moment
