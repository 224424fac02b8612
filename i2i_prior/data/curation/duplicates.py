"""Near duplicates by a perceptual hash of 64 bits.

Of images that are near each other the best is kept, and an image is dropped
only if one near it is kept: of a chain a ~ b ~ c with ends that are not near
each other, b alone is dropped. So every dropped image has a kept near
duplicate.

Two hashes of 64 bits are near by chance too often: at 6 bits once in 2e8 pairs
of photographs, which would be once for every image of 190 million. So a pair
counts only if 16 mean colours agree as well; of 8 chance pairs at 8 bits that
leaves none (see tests/data/test_curation.py).

Records are numbers from 0 to n - 1 here, ordered by `rank`, the best first.
"""

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np

from i2i_prior.errors import UserError

MAX_DISTANCE = 16  # bits; from about 20 on any two images are "near"

_SIDE = 32  # of the grey thumbnail that is transformed
_LOW = 8  # frequencies kept a side
_FLAT = 2.0  # standard deviation in grey levels below which noise dominates
_CORRELATED = 0.95  # least correlation of near duplicates' mean colours
_CHECKED = 65_536  # pairs whose colours are compared at once
_MAX_PAIRS = 100_000_000
_MAX_TABLES = 10_000

_COSINES = np.cos(
    np.pi * np.arange(_LOW)[:, None] * (2 * np.arange(_SIDE) + 1) / (2 * _SIDE)
) / np.sqrt(np.where(np.arange(_LOW), _SIDE / 2, _SIDE)[:, None])


def perceptual_hash(thumbnail: np.ndarray) -> int | None:
    """Hash of 64 bits: the lowest DCT coefficients above their median.

    The thumbnail is the whole image squeezed to (64, 64, 3) uint8. The hash is
    not 0; it is None for an image without coarse structure, which cannot be
    distinguished from others of its kind.
    """
    grey = thumbnail @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    grey = grey.reshape(_SIDE, 2, _SIDE, 2).mean((1, 3))
    waves = (_COSINES @ grey @ _COSINES.T).ravel()
    if np.linalg.norm(waves[1:]) / _SIDE < _FLAT:
        return None
    # Beyond rounding: most waves of a plain gradient are zero.
    bits = waves > np.median(waves[1:]) + 1e-6
    bits[0] = True  # the mean is no part of the structure
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def mean_colours(thumbnail: np.ndarray) -> np.ndarray:
    """Mean colours of 4 x 4 areas: (64, 64, 3) uint8 -> (48,) uint8."""
    areas = thumbnail.reshape(4, 16, 4, 16, 3).mean((1, 3))
    return np.rint(areas).astype(np.uint8).ravel()


def near_by_hash(
    hashes: np.ndarray, colours: np.ndarray, rank: np.ndarray, threshold: int
) -> np.ndarray:
    """Finds near duplicates among hashes, exactly and not quadratically.

    Images of one hash and similar colours are kept or dropped with the best
    of them.

    Args:
        hashes: uint64 (n,), each a `perceptual_hash`.
        colours: uint8 (n, 48), each `mean_colours`.
        rank: (n,), a permutation: of two near images the lower one is kept.
        threshold: greatest number of bits in which near duplicates differ.

    Returns int64 (n,): the kept near duplicate of a record, -1 for a kept one.
    UserError if so many are near that their pairs do not fit into memory.
    """
    # Equal hashes first: a thousand copies would be half a million pairs.
    leader = _leaders(hashes, colours, rank)
    leaders = np.flatnonzero(leader < 0)

    def similar(pairs: np.ndarray) -> np.ndarray:
        return _similar(colours, leaders[pairs[:, 0]], leaders[pairs[:, 1]])

    pairs = _near_pairs(hashes[leaders], int(threshold), similar)
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
    """(n,): the best record of the same hash and similar colours, else -1."""
    leader = np.full(len(hashes), -1, np.int64)
    left = np.lexsort((rank, hashes))
    while len(left):
        first = np.r_[True, hashes[left[1:]] != hashes[left[:-1]]]
        best = left[first][np.cumsum(first) - 1]
        left, best = left[~first], best[~first]
        same = _similar(colours, left, best)
        leader[left[same]] = best[same]
        left = left[~same]
    return leader


def _similar(
    colours: np.ndarray, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """(p,) bool: True if the mean colours of two records are correlated."""
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
        found[part] = equal | ((one * other).sum(1) > _CORRELATED * lengths)
    return found


def _near_pairs(
    hashes: np.ndarray,
    threshold: int,
    similar: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Pairs (p, 2) that differ in `threshold` bits at most and are `similar`.

    Cut into m blocks, two such hashes agree in m - threshold blocks at least.
    So for each choice of as many blocks the hashes are sorted by these bits,
    and only those that agree in all of them are compared: C(m, threshold)
    sorts of n, and n / 2^(64 (m - threshold) / m) comparisons a hash in each.
    """
    parts, waiting = [np.empty((0, 2), np.int64)], 0
    for mask in _masks(len(hashes), threshold):
        for pairs in _pairs_that_agree(hashes & mask, hashes, threshold):
            parts.append(pairs[similar(pairs)])
            waiting += len(parts[-1])
            if waiting > len(parts[0]) + 1_000_000:
                parts, waiting = [_merged(parts)], 0
    return _merged(parts)


def _merged(parts: list[np.ndarray]) -> np.ndarray:
    """Distinct pairs; several tables find the same ones."""
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
    """Masks of the bits to sort by, one a table, for the cheapest cut."""

    def cost(blocks: int) -> float:
        agreeing = 64 * (blocks - threshold) / blocks
        tables = math.comb(blocks, threshold)
        # Sorting costs as much as about sixteen comparisons.
        return tables * n * (16 + n / 2.0**agreeing)

    choices = range(max(1, threshold), threshold + 9)
    few = [b for b in choices if math.comb(b, threshold) <= _MAX_TABLES]
    blocks = min(few, key=cost)
    edges = [64 * block // blocks for block in range(blocks + 1)]
    parts = [(1 << end) - (1 << at) for at, end in itertools.pairwise(edges)]
    chosen = itertools.combinations(parts, blocks - threshold)
    return [np.uint64(sum(bits)) for bits in chosen]


def _pairs_that_agree(
    keys: np.ndarray, hashes: np.ndarray, threshold: int
) -> Iterator[np.ndarray]:
    """Yields pairs (p, 2) of equal keys whose hashes are near."""
    order, step = np.argsort(keys), 1
    keys, hashes = keys[order], hashes[order]
    first = np.flatnonzero(keys[1:] == keys[:-1])
    while len(first):
        second = first + step
        near = np.bitwise_count(hashes[first] ^ hashes[second]) <= threshold
        yield np.stack([order[first[near]], order[second[near]]], axis=1)
        step += 1
        first = first[first + step < len(keys)]
        first = first[keys[first] == keys[first + step]]


def _greedy(pairs: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """(n,): kept near duplicates, or -1; a kept record drops worse ones."""
    swap = rank[pairs[:, 0]] > rank[pairs[:, 1]]
    pairs[swap] = pairs[swap, ::-1]
    pairs = pairs[np.lexsort((rank[pairs[:, 1]], rank[pairs[:, 0]]))]
    instead = np.full(len(rank), -1, np.int64)
    # `better` is decided by now: the pairs that could drop it come earlier.
    for better, worse in pairs:
        if instead[better] < 0 and instead[worse] < 0:
            instead[worse] = better
    return instead
