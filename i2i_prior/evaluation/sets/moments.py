"""Moments of features: float32 sums on the devices, joined in float64.

The join over the processes of a run is to the last bit the same on each: all
call `join_blocks`, `interleave` and `gather` at the same place of the program.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from i2i_prior.evaluation.features.extractor import Extractor
from i2i_prior.evaluation.measures.statistics import FeatureStatistics, merged


class BlockMoments:
    """Statistics of one tap in blocks, while features stream in.

    Row r of the whole belongs to block r modulo their number.
    """

    def __init__(
        self,
        extractor: Extractor,
        tap: str,
        blocks: int,
        share: tuple[int, int],  # see `collect`
        rows: NamedSharding,  # of batches on the devices of this process
    ) -> None:
        dim = extractor.taps[tap]
        name = f"{extractor.name}:{tap}"
        self._blocks = [FeatureStatistics(dim, name) for _ in range(blocks)]
        self._traced = extractor.traced
        self._share = share
        spec = PartitionSpec(None, *rows.spec)
        self._sharding = NamedSharding(rows.mesh, spec)
        self._pending: Callable[[], None] = lambda: None

    def add(self, window: list[Any], first: int, rows: int) -> None:
        """Adds a window of features, its first being row `first` here."""
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
        # The devices compute these while the sums before them are joined.
        self._pending()
        self._pending = functools.partial(self._join, used, sums)

    def finish(self) -> list[FeatureStatistics]:
        """Statistics of the blocks, once all windows are in."""
        self._pending()
        return self._blocks

    def _join(self, used: list[int], sums: Any) -> None:
        for group, block in enumerate(used):
            count, mean, left, moment = (
                np.asarray(part[group], np.float64) for part in sums
            )
            # The rounding error of the mean moves from the moment to it.
            left = left / count
            moment -= np.outer(count * left, left)
            self._blocks[block].merge(
                FeatureStatistics.of(int(count), mean + left, moment)
            )


@functools.partial(jax.jit, static_argnames="sharding")
def _moments(
    window: tuple[jax.Array, ...],  # features (n, d)
    taken: jax.Array,  # (blocks, rows), indices of rows
    mask: jax.Array,  # (blocks, rows), False for padding
    sharding: NamedSharding,  # of (blocks, rows, ...)
) -> tuple[jax.Array, ...]:
    """Moments of each block of a window, in float32.

    Counts (blocks,), means (blocks, d), sums of the rows' deviations from them
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


def join_blocks(blocks: Sequence[FeatureStatistics]) -> list[FeatureStatistics]:
    """Statistics of each block over all processes, joined in their order."""
    found = []
    for block in blocks:
        mean = block.mean if block.count else np.zeros(block.dim)
        counts = gather(np.array([block.count], np.uint32))[:, 0]
        every = zip(counts, gather(mean), gather(block.moment), strict=True)
        parts = [FeatureStatistics.of(int(n), *rest) for n, *rest in every if n]
        empty = FeatureStatistics(block.dim, block.features)
        found.append(merged([empty, *parts]))
    return found


def interleave(rows: np.ndarray, counts: list[int]) -> np.ndarray:
    """Rows 0, 1, ... of the whole; process p has p, p + processes, ...

    Here they are (n, ...); `counts` has the n of each process.
    """
    filled = np.zeros((max(counts), *rows.shape[1:]), rows.dtype)
    filled[: len(rows)] = rows
    every = np.moveaxis(gather(filled), 0, 1)
    return every.reshape(-1, *rows.shape[1:])[: sum(counts)]


def gather(array: np.ndarray) -> np.ndarray:
    """Arrays of all processes, (processes, *array.shape), of one dtype.

    Sent as words of 32 bits, since JAX would round float64 to float32.
    """
    whole = np.ascontiguousarray(array)
    words = np.frombuffer(whole.tobytes(), np.uint32)
    found = np.asarray(multihost_utils.process_allgather(words))
    return found.view(array.dtype).reshape(-1, *array.shape)
