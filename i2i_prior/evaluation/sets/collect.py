"""Statistics of the features of images, in one pass through an extractor.

On the devices each window of rows becomes counts, means and centred second
moments in float32; the host joins them in float64 (see `moments`). Only kept
features grow with the number of images.

Row r of a set belongs to block r modulo their number, and the whole is the
sum of the blocks: a confidence interval needs no second pass.
"""

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.extractor import Extractor
from i2i_prior.evaluation.measures.statistics import FeatureStatistics, merged
from i2i_prior.evaluation.sets.moments import (
    BlockMoments,
    gather,
    interleave,
    join_blocks,
)
from i2i_prior.io.threads import map_in_order

BLOCKS = 10
# Rows between two visits of the host: each moves d x d numbers a block.
WINDOW = 4096
_AHEAD = 3  # batches that wait for the devices
_BATCH = "batch"
_CPU_BATCH = 8
THREADS = min(16, os.cpu_count() or 1)


@dataclass
class Collected:
    """Features of a set of images, after one pass."""

    statistics: dict[str, FeatureStatistics]  # by tap, of all images
    # By kept tap, (N, d) float32 in the order of the images.
    features: dict[str, np.ndarray] = field(default_factory=dict)
    # By tap, of disjoint parts whose sum is `statistics`; none from a file.
    blocks: dict[str, list[FeatureStatistics]] = field(default_factory=dict)
    count: int | None = None  # of images; None where a file lacks it
    hash: str = ""  # SHA-256 of the images' own in order, or of the file
    size: tuple[int, int] | None = None  # height and width, where known
    # Origin of the set, as JSON values.
    provenance: dict[str, Any] = field(default_factory=dict)


def collect(
    batches: Iterable[np.ndarray],
    extractor: Extractor,
    *,
    devices: Sequence[jax.Device] | None = None,
    batch_size: int = 32,
    keep: Sequence[str] = (),
    moments: Sequence[str] | None = None,
    blocks: int = BLOCKS,
    share: tuple[int, int] = (0, 1),
    progress: Callable[[int], Any] | None = None,
) -> Collected:
    """Collects statistics and features in one pass over images.

    Args:
        batches: uint8 (n, H, W, 3) of any n and one size; every row counts,
            exactly once.
        devices: of this process; None for all of them.
        batch_size: images that the extractor sees at once, rounded up to a
            multiple of the devices.
        keep: taps whose features are kept.
        moments: taps whose statistics are taken; None for the first one.
        blocks: their number; 1 gives no interval.
        share: (first, stride): the rows here are the rows first, first +
            stride, ... of the whole. With a stride other than 1 every process
            of the run calls with its share, (process, processes), and gets
            the whole.
        progress: called with the number of images done here.

    UserError for images of two sizes, no image, or features that are not
    finite.
    """
    pipe = _ExtractorPipe(extractor, devices or jax.local_devices(), batch_size)
    moments = (extractor.first,) if moments is None else tuple(moments)
    taps = {
        tap: BlockMoments(extractor, tap, blocks, share, pipe.rows)
        for tap in moments
    }
    kept: dict[str, list[np.ndarray]] = {tap: [] for tap in keep}
    digests: list[bytes] = []
    size: tuple[int, int] | None = None
    window: list[dict[str, Any]] = []
    done = flushed = 0

    def flush() -> None:
        nonlocal flushed
        rows = done - flushed
        for tap, sums in taps.items():
            sums.add([features[tap] for features in window], flushed, rows)
        for tap, parts in kept.items():
            whole = [np.asarray(features[tap]) for features in window]
            parts.append(np.concatenate(whole)[:rows].astype(np.float32))
        window.clear()
        flushed = done

    for batch in map_in_order(
        pipe.ahead, rebatch(batches, pipe.batch), _AHEAD, pipe.threads
    ):
        window.append(pipe.features(batch.ready))
        # The devices have work, and the memory of waiting batches is bounded.
        if len(window) >= _AHEAD:
            jax.block_until_ready(window[-_AHEAD])
        digests += batch.digests
        size = batch.size
        done += len(batch.digests)
        if len(window) * pipe.batch >= WINDOW:
            flush()
        if progress is not None:
            progress(done)
    if window:
        flush()
    parts = {tap: sums.finish() for tap, sums in taps.items()}
    features = {
        tap: np.concatenate([np.zeros((0, extractor.taps[tap])), *rows])
        for tap, rows in kept.items()
    }
    if share[1] > 1 and jax.process_count() > 1:
        parts, features, digests, size = _join_processes(
            parts, features, digests, size
        )
    if not digests:
        raise UserError("there is no image to measure; add images first.")
    return Collected(
        {tap: merged(statistics) for tap, statistics in parts.items()},
        {tap: rows.astype(np.float32) for tap, rows in features.items()},
        parts if blocks > 1 else {},
        len(digests),
        hashlib.sha256(b"".join(digests)).hexdigest(),
        size,
    )


@dataclass(frozen=True)
class _Batch:
    ready: Any  # prepared images, or their features
    digests: list[bytes]  # SHA-256 of each image
    size: tuple[int, int]


class _ExtractorPipe:
    """Extraction of features on the devices of this process."""

    def __init__(
        self, extractor: Extractor, devices: Sequence[jax.Device], batch: int
    ) -> None:
        local = Mesh(np.array(devices), (_BATCH,), axis_types=(AxisType.Auto,))
        self.rows = NamedSharding(local, PartitionSpec(_BATCH))
        self.batch = -(-batch // len(devices)) * len(devices)
        self._extractor = extractor
        self._apply: Callable[..., Any] = extractor.apply
        self._parameters = extractor.parameters
        if extractor.traced:
            everywhere = NamedSharding(local, PartitionSpec())
            self._apply = jax.jit(extractor.apply)
            self._parameters = jax.device_put(self._parameters, everywhere)
        # A program on the CPU leaves a core idle a fifth of the time, and
        # more images than some eight leave the cache.
        self._in_threads = extractor.traced and len(devices) == 1
        self._in_threads &= devices[0].platform == "cpu"
        self.threads = THREADS
        if self._in_threads:
            self.batch, self.threads = min(self.batch, _CPU_BATCH), 2
        self._compiling, self._compiled = threading.Lock(), False

    def ahead(self, images: np.ndarray) -> _Batch:
        """Prepares a batch in a thread; on one CPU computes it as well."""
        batch = self._prepare(images)
        if not self._in_threads:
            return batch
        once = contextlib.nullcontext() if self._compiled else self._compiling
        with once:  # compiled by one thread, not by each
            ready = jax.block_until_ready(self._dispatched(batch.ready))
            self._compiled = True
        return replace(batch, ready=ready)

    def features(self, ready: Any) -> dict[str, Any]:
        """Features by tap, dispatched but not waited for."""
        return ready if self._in_threads else self._dispatched(ready)

    def _prepare(self, images: np.ndarray) -> _Batch:
        """Prepares images, and pads a short batch."""
        prepared = self._extractor.prepare(images)
        missing = self.batch - len(images)
        if self._extractor.traced and missing:
            last = np.repeat(prepared[-1:], missing, axis=0)
            prepared = np.concatenate([prepared, last])
        height, width = images.shape[1:3]
        start = b"%d %d " % (height, width)
        digests = [
            hashlib.sha256(start + image.tobytes()).digest() for image in images
        ]
        return _Batch(prepared, digests, (height, width))

    def _dispatched(self, prepared: np.ndarray) -> dict[str, Any]:
        if self._extractor.traced:
            prepared = jax.device_put(prepared, self.rows)
        return dict(self._apply(self._parameters, prepared))


def _join_processes(
    blocks: dict[str, list[FeatureStatistics]],
    features: dict[str, np.ndarray],
    digests: list[bytes],
    size: tuple[int, int] | None,
) -> tuple[Any, ...]:
    """These, joined over the processes in their order."""
    facts = np.array([len(digests), *(size or (0, 0))], np.uint32)
    every_fact = gather(facts).tolist()
    counts = [count for count, _, _ in every_fact]
    sizes = list(dict.fromkeys((h, w) for count, h, w in every_fact if count))
    if len(sizes) > 1:
        raise mixed_sizes(*sizes[:2])
    own = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
    return (
        {tap: join_blocks(parts) for tap, parts in blocks.items()},
        {tap: interleave(rows, counts) for tap, rows in features.items()},
        [bytes(digest) for digest in interleave(own, counts)],
        sizes[0] if sizes else None,
    )


def rebatch(batches: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Batches of `size` with the same rows; the last one may be shorter.

    UserError for anything but uint8 (n, H, W, 3), or images of several sizes.
    """
    waiting: list[np.ndarray] = []
    for batch in batches:
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[3] != 3:
            raise UserError(
                "features are computed from uint8 images (N, H, W, 3), not "
                f"from {batch.dtype} of shape {batch.shape}."
            )
        if waiting and batch.shape[1:] != waiting[0].shape[1:]:
            raise mixed_sizes(waiting[0].shape[1:3], batch.shape[1:3])
        waiting.append(batch)
        if sum(map(len, waiting)) < size:
            continue
        rows = np.concatenate(waiting)
        whole = len(rows) // size * size
        for start in range(0, whole, size):
            yield rows[start : start + size]
        # Also where it has no row, for its shape.
        waiting = [rows[whole:]]
    if sum(map(len, waiting)):
        yield np.concatenate(waiting)


def mixed_sizes(one: Sequence[int], other: Sequence[int]) -> UserError:
    """Error of images of two sizes, (height, width) each."""
    return UserError(
        f"the images are of several sizes, as {one[1]} x {one[0]} and "
        f"{other[1]} x {other[0]}; give --size N to crop and resize all to "
        "N x N, or make their sizes equal."
    )
