"""Which record example number n of a run is: a pure function, no state.

Every record comes once an epoch, and every epoch is shuffled anew. Of a
mixture, each part has epochs of its own, and as many of every 1,000 examples
as its weight says.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import grain
import numpy as np

from i2i_prior.errors import UserError

_SMALL = 4096  # records whose order is permuted in memory
_BLOCK = 1000  # examples in which a mixture keeps its weights


class Order:
    """Example number to record index, of one list of records.

    Above `_SMALL` records grain computes each place of the shuffle by itself,
    with no memory; below, its search would take up to milliseconds (it walks
    65,536 places for a handful of records), so the epoch is permuted whole.

    Args:
        length: records.
        seed: of the shuffles.
        shuffle: False for the records' own order.
    """

    def __init__(self, length: int, seed: int, shuffle: bool = True) -> None:
        self._length = length
        self._seed = seed
        order = grain.MapDataset.range(length)
        if shuffle:
            # grain seeds an epoch with seed + epoch, so that seed 1 would
            # start with the second epoch of seed 0: hash the seed first.
            hashed = np.random.SeedSequence(seed).generate_state(1)
            order = order.shuffle(seed=int(hashed[0]))
        self._order = order.repeat(None)
        self._permuted = shuffle and length <= _SMALL

    def __getitem__(self, number: int) -> int:
        if self._permuted:
            epoch, place = divmod(number, self._length)
            return int(_permutation(self._length, self._seed, epoch)[place])
        return int(self._order[number])


class MixedOrder:
    """The same for parts that lie one behind the other, mixed by weight.

    Args:
        lengths: records of each part.
        weights: of each part, positive, their sum 1; kept to a thousandth.
        seed, shuffle: see `Order`; which part an example is of is drawn in
            any case.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        weights: Sequence[float],
        seed: int,
        shuffle: bool = True,
    ) -> None:
        self._starts = np.cumsum([0, *lengths[:-1]]).tolist()
        seeds = np.random.SeedSequence(seed).spawn(len(lengths))
        self._orders = [
            Order(length, int(part.generate_state(1)[0]), shuffle)
            for length, part in zip(lengths, seeds, strict=True)
        ]
        self._shares = tuple(shares(weights))
        self._seed = seed

    def __getitem__(self, number: int) -> int:
        block, place = divmod(number, _BLOCK)
        parts, ranks = _block(self._shares, self._seed, block)
        part = int(parts[place])
        number = block * self._shares[part] + int(ranks[place])
        return self._starts[part] + self._orders[part][number]


def order_of(source: Any, seed: int, shuffle: bool = True) -> Any:
    """The order of a source, or of a mixture (which has `parts` and
    `weights`)."""
    if not hasattr(source, "weights"):
        return Order(len(source), seed, shuffle)
    lengths = [len(part) for part in source.parts]
    return MixedOrder(lengths, source.weights, seed, shuffle)


def shares(weights: Sequence[float]) -> list[int]:
    """How many of `_BLOCK` examples each part has, at least one.

    Raises:
        UserError: there are more parts than that.
    """
    if len(weights) > _BLOCK:
        raise UserError(
            f"A mixture of {len(weights)} parts is too large: give {_BLOCK} "
            "at most."
        )
    exact = np.array(weights) * _BLOCK
    counts = np.maximum(np.floor(exact).astype(int), 1)
    # Largest remainders first; what single examples cost goes off the largest.
    for place in np.argsort(counts - exact, kind="stable"):
        if counts.sum() < _BLOCK:
            counts[place] += 1
    counts[np.argmax(counts)] += _BLOCK - counts.sum()
    return counts.tolist()


@lru_cache(maxsize=64)
def _permutation(length: int, seed: int, epoch: int) -> np.ndarray:
    # The third number keeps these draws apart from those of example `epoch`.
    return np.random.default_rng((seed, epoch, 1)).permutation(length)


@lru_cache(maxsize=64)
def _block(
    counts: tuple[int, ...], seed: int, block: int
) -> tuple[np.ndarray, np.ndarray]:
    """The part of each example of a block, and its rank among the part's."""
    sorted_parts = np.repeat(np.arange(len(counts)), counts)
    rng = np.random.default_rng((seed, block, 2))
    parts = rng.permutation(sorted_parts)
    ranks = np.empty(_BLOCK, int)
    ranks[np.argsort(parts, kind="stable")] = np.concatenate(
        [np.arange(count) for count in counts]
    )
    return parts, ranks
