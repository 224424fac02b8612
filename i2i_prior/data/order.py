"""Record numbers in the order of a run: `order[n]` is the record of example n.

A pure function of (lengths, seed, n). Every record comes once an epoch, and
every epoch is shuffled again. In a mixture each part has epochs of its own,
and its weight is exact in every 1,000 examples.

Not Grain datasets (0.2.18), whose statistics take 30 us an example, and whose
`mix` repeats one pattern of parts.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from grain.experimental import index_shuffle

from i2i_prior.errors import UserError

_SMALL = 4096  # records whose order is permuted in memory
_BLOCK = 1000  # examples in which a mixture keeps its weights


class Order(Protocol):
    """Endless list of record numbers."""

    def __getitem__(self, number: int) -> int: ...


class Shuffled:
    """Numbers below `length`, epoch after epoch; in order without `shuffle`."""

    def __init__(self, length: int, seed: int, shuffle: bool = True) -> None:
        self._length, self._seed, self._shuffle = length, seed, shuffle
        # An epoch is shuffled with hash + epoch: without the hash seed 1 would
        # start with the second epoch of seed 0.
        self._hash = int(np.random.SeedSequence(seed).generate_state(1)[0])

    def __getitem__(self, number: int) -> int:
        epoch, place = divmod(number, self._length)
        if not self._shuffle:
            return place
        # The search of index_shuffle walks 65,536 places for a handful of
        # records, up to milliseconds each.
        if self._length <= _SMALL:
            return int(_permutation(self._length, self._seed, epoch)[place])
        seed = (self._hash + epoch) % 2**32
        last = self._length - 1
        return index_shuffle(place, max_index=last, seed=seed, rounds=4)


class Mixed:
    """The same for parts that lie one behind the other, mixed by weight.

    `lengths` are the parts' numbers of records; `weights` are positive, of sum
    1, and kept to a thousandth. The part of an example is drawn even without
    `shuffle`.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        weights: Sequence[float],
        seed: int,
        shuffle: bool = True,
    ) -> None:
        self._starts = np.cumsum([0, *lengths[:-1]]).tolist()
        self._parts = [
            Shuffled(length, own, shuffle)
            for length, own in zip(
                lengths, spawned(seed, len(lengths)), strict=True
            )
        ]
        self._counts, self._seed = tuple(shares(weights)), seed

    def __getitem__(self, number: int) -> int:
        block, place = divmod(number, _BLOCK)
        parts, ranks = _block(self._counts, self._seed, block)
        part = int(parts[place])
        number = block * self._counts[part] + int(ranks[place])
        return self._starts[part] + self._parts[part][number]


def order_of(source: Any, seed: int, shuffle: bool = True) -> Order:
    """The order of a source, by weight where it is a mixture."""
    weights = getattr(source, "weights", None)
    if weights is None:
        return Shuffled(len(source), seed, shuffle)
    lengths = [len(part) for part in source.parts]
    return Mixed(lengths, weights, seed, shuffle)


def spawned(seed: int, count: int) -> list[int]:
    """Independent seeds of 32 bits, one for each of `count` parts."""
    children = np.random.SeedSequence(seed).spawn(count)
    return [int(child.generate_state(1)[0]) for child in children]


def shares(weights: Sequence[float]) -> list[int]:
    """Examples of each part in `_BLOCK`, at least one; UserError if there are
    more parts than that."""
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
