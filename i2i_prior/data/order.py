"""Record numbers in the order of a run, as endless Grain datasets.

Element n is the record of example n: a pure function of (lengths, seed, n).
Every record comes once an epoch, and every epoch is shuffled again. In a
mixture each part has epochs of its own, and its weight is exact in every
1,000 examples.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import grain
import numpy as np
from grain.transforms import DatasetSelectionMap

from i2i_prior.errors import UserError

_SMALL = 4096  # records whose order is permuted in memory
_BLOCK = 1000  # examples in which a mixture keeps its weights


def shuffled(length: int, seed: int, shuffle: bool = True) -> grain.MapDataset:
    """Numbers below `length`, epoch after epoch.

    Args:
        length: records.
        seed: of the shuffles.
        shuffle: False for the records' own order.
    """
    numbers = grain.MapDataset.range(length)
    if not shuffle:
        return numbers.repeat(None)
    if length <= _SMALL:
        return grain.MapDataset.source(_Permutations(length, seed))
    # Grain seeds an epoch with seed + epoch, so that seed 1 would start with
    # the second epoch of seed 0: hash the seed first.
    hashed = np.random.SeedSequence(seed).generate_state(1)
    return numbers.shuffle(seed=int(hashed[0])).repeat(None)


def mixed(
    lengths: Sequence[int],
    weights: Sequence[float],
    seed: int,
    shuffle: bool = True,
) -> grain.MapDataset:
    """The same for parts that lie one behind the other, mixed by weight.

    Args:
        lengths: records of each part.
        weights: of each part, positive, their sum 1; kept to a thousandth.
        seed, shuffle: see `shuffled`; the part of an example is drawn in any
            case.
    """
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    seeds = np.random.SeedSequence(seed).spawn(len(lengths))
    parts = [
        shuffled(length, int(own.generate_state(1)[0]), shuffle).map(
            partial(operator.add, start)
        )
        for length, start, own in zip(lengths, starts, seeds, strict=True)
    ]
    chosen = _Blocks(tuple(shares(weights)), seed)
    return grain.MapDataset.select_from_datasets(parts, chosen)


def order_of(source: Any, seed: int, shuffle: bool = True) -> grain.MapDataset:
    """The order of a source, by weight where it is a mixture."""
    weights = getattr(source, "weights", None)
    if weights is None:
        return shuffled(len(source), seed, shuffle)
    lengths = [len(part) for part in source.parts]
    return mixed(lengths, weights, seed, shuffle)


def shares(weights: Sequence[float]) -> list[int]:
    """Examples of each part in `_BLOCK`, at least one.

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


class _Permutations:
    """Epochs of a short list, each permuted in memory.

    Not Grain's shuffle (0.2.18), whose search walks 65,536 places for a
    handful of records, up to milliseconds each.
    """

    def __init__(self, length: int, seed: int) -> None:
        self._length, self._seed = length, seed

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, number: int) -> int:
        epoch, place = divmod(number, self._length)
        return int(_permutation(self._length, self._seed, epoch)[place])


class _Blocks(DatasetSelectionMap):
    """Example -> part and number within it, in blocks that are shuffled.

    Not Grain's `mix` (0.2.18), which repeats one pattern of parts.
    """

    def __init__(self, counts: tuple[int, ...], seed: int) -> None:
        self._counts, self._seed = counts, seed

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> tuple[int, int]:
        block, place = divmod(index, _BLOCK)
        parts, ranks = _block(self._counts, self._seed, block)
        part = int(parts[place])
        return part, block * self._counts[part] + int(ranks[place])


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
