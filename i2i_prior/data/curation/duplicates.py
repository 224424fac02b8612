"""Near duplicates by a perceptual hash of 64 bits.

Of images that are near each other the best is kept, and an image is dropped
only where one near it is kept: a chain a ~ b ~ c, whose ends are not near each
other, loses b alone. So whatever is dropped has its stand-in.

Two hashes of 64 bits are near by chance too often: at 6 bits once in 2e8 pairs
of photographs, which would be once for every image of 190 million. So a pair
counts only where 16 mean colours agree as well; of 8 chance pairs at 8 bits
that leaves none (see tests/data/test_curation.py for what is found).

Records are numbers from 0 to n - 1 here; `rank` says which is better.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np

from i2i_prior.errors import UserError

MAX_DISTANCE = 16  # bits; from about 20 on any two images are "near"

_SIDE = 32  # of the grey thumbnail that is transformed
_LOW = 8  # frequencies kept a side
_FLAT = 2.0  # grey levels (standard deviation) below which noise would decide
_ALIKE = 0.95  # least correlation of the mean colours of near duplicates
_CHECKED = 65_536  # pairs whose colours are compared at once
_MAX_PAIRS = 100_000_000
_MAX_TABLES = 10_000

_COSINES = np.cos(
    np.pi * np.arange(_LOW)[:, None] * (2 * np.arange(_SIDE) + 1) / (2 * _SIDE)
) / np.sqrt(np.where(np.arange(_LOW), _SIDE / 2, _SIDE)[:, None])


def perceptual_hash(thumbnail: np.ndarray) -> int | None:
    """Which of the 64 lowest DCT coefficients are above their median.

    Args:
        thumbnail: the whole image squeezed to (64, 64, 3) uint8.

    Returns:
        A number of 64 bits, not 0; None for an image without coarse
        structure, which looks like any other of its kind.
    """
    grey = thumbnail @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    grey = grey.reshape(_SIDE, 2, _SIDE, 2).mean((1, 3))
    waves = (_COSINES @ grey @ _COSINES.T).ravel()
    if np.linalg.norm(waves[1:]) / _SIDE < _FLAT:
        return None
    # Beyond rounding: most waves of a plain gradient are zero.
    bits = waves > np.median(waves[1:]) + 1e-6
    bits[0] = True  # the mean says nothing about the structure
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def check_distance(threshold: float) -> None:
    """Raises UserError for no whole number in [0, 16]."""
    if threshold not in range(MAX_DISTANCE + 1):
        raise UserError(
            f"the threshold of perceptual hashes is {threshold:g}: give whole "
            f"bits from 0 to {MAX_DISTANCE}; 4 is strict, 6 usual, 10 lenient"
        )


def mean_colours(thumbnail: np.ndarray) -> np.ndarray:
    """Of a grid of 4 x 4 areas: (64, 64, 3) uint8 -> (48,) uint8."""
    areas = thumbnail.reshape(4, 16, 4, 16, 3).mean((1, 3))
    return np.rint(areas).astype(np.uint8).ravel()


def near_by_hash(
    hashes: np.ndarray, colours: np.ndarray, rank: np.ndarray, threshold: int
) -> np.ndarray:
    """Finds near duplicates among hashes, exactly and not quadratically.

    Images of one hash and like colours share the fate of the best of them.

    Args:
        hashes: uint64 (n,), each a `perceptual_hash`.
        colours: uint8 (n, 48), each `mean_colours`.
        rank: (n,), a permutation: of two near images the lower one stays.
        threshold: bits in which near duplicates differ at most.

    Returns:
        int64 (n,): the record that is kept in its stead, -1 for a kept one.

    Raises:
        UserError: `threshold` is not in [0, 16], or so many are near that
            their pairs do not fit into memory.
    """
    check_distance(threshold)
    # Equal hashes first: a thousand copies would be half a million pairs.
    leader = _leaders(hashes, colours, rank)
    leaders = np.flatnonzero(leader < 0)

    def alike(pairs: np.ndarray) -> np.ndarray:
        return _alike(colours, leaders[pairs[:, 0]], leaders[pairs[:, 1]])

    pairs = _near_pairs(hashes[leaders], int(threshold), alike)
    better = _greedy(pairs, rank[leaders])
    instead = leader.copy()
    gone = np.flatnonzero(better >= 0)
    instead[leaders[gone]] = leaders[better[gone]]
    followers = np.flatnonzero(leader >= 0)
    above = instead[leader[followers]]
    instead[followers] = np.where(above < 0, leader[followers], above)
    return instead


def _leaders(
    hashes: np.ndarray, colours: np.ndarray, rank: np.ndarray
) -> np.ndarray:
    """(n,): the best record of the same hash and like colours, else -1."""
    leader = np.full(len(hashes), -1, np.int64)
    left = np.lexsort((rank, hashes))
    while len(left):
        first = np.r_[True, hashes[left[1:]] != hashes[left[:-1]]]
        best = left[first][np.cumsum(first) - 1]
        left, best = left[~first], best[~first]
        same = _alike(colours, left, best)
        leader[left[same]] = best[same]
        left = left[~same]
    return leader


def _alike(
    colours: np.ndarray, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """(p,) bool: whether the colours of two records are arranged alike."""
    found = np.zeros(len(first), bool)
    for start in range(0, len(first), _CHECKED):
        part = slice(start, start + _CHECKED)
        one, other = (
            colours[side[part]].astype(np.float32) for side in (first, second)
        )
        equal = (one == other).all(1)
        one -= one.mean(1, keepdims=True)
        other -= other.mean(1, keepdims=True)
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        found[part] = equal | ((one * other).sum(1) > _ALIKE * lengths)
    return found


def _near_pairs(
    hashes: np.ndarray,
    threshold: int,
    alike: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Pairs (p, 2) that differ in `threshold` bits at most and are `alike`.

    Cut into m blocks, two such hashes agree in m - threshold blocks at least.
    So for each choice of as many blocks the hashes are sorted by these bits,
    and only those that agree in all of them are compared: C(m, threshold)
    sorts of n, and n / 2^(64 (m - threshold) / m) comparisons a hash in each.
    """
    found = np.empty((0, 2), np.int64)
    batch: list[np.ndarray] = []
    waiting = 0
    for mask in _masks(len(hashes), threshold):
        for pairs in _pairs_that_agree(hashes & mask, hashes, threshold):
            pairs = pairs[alike(pairs)]
            batch.append(pairs)
            waiting += len(pairs)
            if waiting > len(found) + 1_000_000:
                found, waiting = _merged([found, *batch]), 0
                batch.clear()
    return _merged([found, *batch])


def _merged(parts: list[np.ndarray]) -> np.ndarray:
    """Every pair once: several tables find the same."""
    pairs = np.sort(np.concatenate(parts), axis=1)
    # Two 32-bit halves in one number sort ten times faster than rows.
    joined = np.unique(pairs[:, 0] << 32 | pairs[:, 1])
    if len(joined) > _MAX_PAIRS:
        raise UserError(
            f"more than {_MAX_PAIRS:,} pairs of images are near duplicates at "
            "this threshold: lower it, or drop flat images (--min-entropy)"
        )
    return np.stack([joined >> 32, joined & 0xFFFFFFFF], axis=1)


def _masks(n: int, threshold: int) -> list[np.uint64]:
    """The bits to sort by, one mask a table; the cheapest way to cut."""

    def cost(blocks: int) -> float:
        agreeing = 64 * (blocks - threshold) / blocks
        tables = math.comb(blocks, threshold)
        # Sorting costs as much as about sixteen comparisons.
        return tables * n * (16 + n / 2.0**agreeing)

    blocks = min(
        (
            blocks
            for blocks in range(max(1, threshold), threshold + 9)
            if math.comb(blocks, threshold) <= _MAX_TABLES
        ),
        key=cost,
    )
    edges = [64 * block // blocks for block in range(blocks + 1)]
    parts = [
        (1 << high) - (1 << low) for low, high in itertools.pairwise(edges)
    ]
    return [
        np.uint64(sum(chosen))
        for chosen in itertools.combinations(parts, blocks - threshold)
    ]


def _pairs_that_agree(
    keys: np.ndarray, hashes: np.ndarray, threshold: int
) -> Iterator[np.ndarray]:
    """Yields pairs (p, 2) of equal keys whose hashes are near."""
    order = np.argsort(keys)
    keys, hashes = keys[order], hashes[order]
    step = 1
    first = np.flatnonzero(keys[1:] == keys[:-1])
    while len(first):
        second = first + step
        near = np.bitwise_count(hashes[first] ^ hashes[second]) <= threshold
        yield np.stack([order[first[near]], order[second[near]]], axis=1)
        step += 1
        first = first[first + step < len(keys)]
        first = first[keys[first] == keys[first + step]]


def _greedy(pairs: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """(n,): best first, who is kept drops those near it that are left."""
    swap = rank[pairs[:, 0]] > rank[pairs[:, 1]]
    pairs[swap] = pairs[swap, ::-1]
    pairs = pairs[np.lexsort((rank[pairs[:, 1]], rank[pairs[:, 0]]))]
    instead = np.full(len(rank), -1, np.int64)
    # The fate of `better` is settled: all pairs that could drop it are past.
    for better, worse in pairs:
        if instead[better] < 0 and instead[worse] < 0:
            instead[worse] = better
    return instead
