"""The batch of a step: a pure function of (source, options, step).

Example number n = step * batch_size + j is record `order[n]`, where `order`
shuffles anew each epoch (n // len(source)); all its random draws come from a
generator seeded with (seed, n). So there is no iterator state: a run resumes
by asking for the batch of its step, and the global batch is the same on any
number of hosts, worker processes and threads: each host makes the rows of it
that its devices hold.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import grain
import numpy as np
from absl import flags

from i2i_prior.data.broken import Batch, BrokenTally, describe, read
from i2i_prior.data.evaluation import evaluation_crops
from i2i_prior.data.images import (
    BrokenImage,
    center_box,
    center_crop,
    flip,
    random_resized_crop,
    view,
)
from i2i_prior.data.sources import Source
from i2i_prior.errors import UserError

__all__ = [
    "Batch",
    "BrokenTally",
    "DataOptions",
    "Pipeline",
    "evaluation_crops",
]

_MAX_SUBSTITUTES = 64
_SMALL = 4096  # records whose order is permuted in memory


@dataclass(frozen=True)
class DataOptions:
    """How images become batches; sides in pixels, probabilities in [0, 1].

    Raises:
        UserError: a value is out of its range.
    """

    image_size: int  # side of the target crop
    batch_size: int  # global, over all hosts
    seed: int = 0  # of order, crops and every other draw; not negative
    crop: str = "random"  # "random" (resized) or "center"
    min_scale: float = 0.25  # least share of the image's area in the crop
    flip: float = 0.5  # probability of mirroring target and view together
    view_size: int = 0  # side of the second view; 0 = no view
    view_min_scale: float = 1.0  # least share of the target's box in the view
    view_flip: float = 0.0  # probability of mirroring the view alone
    view_jitter: float = 0.0  # strength of brightness, contrast, saturation
    min_side: int = 0  # smaller images count as broken; 0 = scale them up
    threads: int = 4  # that make batches ahead, in each process
    workers: int = 0  # processes that make batches; 0 = this one
    prefetch: int = 8  # batches made ahead on this host
    shuffle: bool = True  # anew each epoch; False = the source's order
    max_broken: float = 0.01  # share of broken images a run puts up with

    def __post_init__(self) -> None:
        for name in ("image_size", "batch_size", "threads", "prefetch"):
            _require(getattr(self, name) >= 1, name, "at least 1")
        for name in ("seed", "view_size", "min_side", "workers"):
            _require(getattr(self, name) >= 0, name, "0 or more")
        for name in ("min_scale", "view_min_scale"):
            _require(0 < getattr(self, name) <= 1, name, "above 0, at most 1")
        for name in ("flip", "view_flip", "view_jitter", "max_broken"):
            _require(0 <= getattr(self, name) <= 1, name, "from 0 to 1")
        known = self.crop in ("random", "center")
        _require(known, "crop", '"random" or "center"')


def _require(holds: bool, name: str, wanted: str) -> None:
    if not holds:
        raise UserError(f"Data option {name} must be {wanted}: set it so.")


class Pipeline:
    """Batches, or one host's rows of them.

    A batch is a dict of arrays of b = len(rows) examples:
        image: (b, S, S, 3) uint8, the target crop.
        view: (b, V, V, 3) uint8, only with `view_size`.
        index: (b,) int32, the record that is shown.
        broken: (b,) int32, the record that should have been shown but could
            not be read, or -1. The one shown instead is drawn by the
            example's own generator, so it is the same on every run.

    Args:
        source: the images; picklable where `options.workers` is not 0.
        options: see `DataOptions`.
        rows: of the global batch, in their order; None for all.
    """

    def __init__(
        self,
        source: Source,
        options: DataOptions,
        rows: Sequence[int] | None = None,
    ) -> None:
        everything = range(options.batch_size)
        self._rows = everything if rows is None else tuple(rows)
        if not self._rows or not set(self._rows) <= set(everything):
            raise ValueError(f"rows {rows} are not in {everything}")
        self._source = source
        self._options = options
        self._order = _Order(len(source), options.seed, options.shuffle)

    def batch(self, step: int) -> Batch:
        """The batch of `step` (from 0), or its rows for this host.

        Raises:
            UserError: no readable image was found for an example.
        """
        if step < 0:
            raise IndexError(f"step {step} is negative")
        start = step * self._options.batch_size
        examples = [self._example(start + row) for row in self._rows]
        names = examples[0].keys()
        return {
            name: np.stack([example[name] for example in examples])
            for name in names
        }

    def batches_from(self, step: int) -> Generator[Batch]:
        """Endless `batch(step)`, `batch(step + 1)`, ..., made ahead.

        Starts at once at any step. Closing the iterator (`.close()`, or
        letting go of it) ends its threads and worker processes.
        """
        options = self._options
        processes = max(1, options.workers)
        ahead = -(-options.prefetch // processes)
        steps = grain.MapDataset.source(_Steps(self))[step:]
        dataset = steps.to_iter_dataset(
            grain.ReadOptions(
                # grain warns of more threads than places to fill.
                num_threads=min(options.threads, ahead),
                prefetch_buffer_size=ahead,
            )
        )
        if options.workers:
            _parse_flags()
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(
                    num_workers=options.workers, per_worker_buffer_size=1
                )
            )
        iterator = iter(dataset)
        try:
            for batch in iterator:
                # Workers hand over views of shared memory: own the arrays.
                yield (
                    {name: np.array(array) for name, array in batch.items()}
                    if options.workers
                    else batch
                )
        finally:
            iterator.close()

    def _example(self, number: int) -> dict[str, np.ndarray]:
        """Example `number` of the run, with a substitute where broken."""
        options = self._options
        rng = np.random.default_rng((options.seed, number))
        first = index = self._order[number]
        for _ in range(_MAX_SUBSTITUTES + 1):
            try:
                example = self._crops(read(self._source, index), rng)
            except BrokenImage:
                # Drawn, not the next in order: damage comes in runs, as when
                # a download broke off.
                index = int(rng.integers(len(self._source)))
                continue
            broken = -1 if index == first else first
            return example | {
                "index": np.array(index, np.int32),
                "broken": np.array(broken, np.int32),
            }
        raise UserError(
            f"There is no readable image: {_MAX_SUBSTITUTES} substitutes for "
            f"{describe(self._source, first)} were broken too, so check the "
            "image source and data option min_side."
        )

    def _crops(
        self, image: np.ndarray, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Target and view of one image; draws crop, flip, view, in order."""
        options = self._options
        size, min_side = options.image_size, options.min_side
        if options.crop == "random":
            scale = (options.min_scale, 1.0)
            target, box = random_resized_crop(
                image, size, rng, scale, min_side=min_side
            )
        else:
            target = center_crop(image, size, min_side)
            box = center_box(*image.shape[:2])
        mirrored = rng.random() < options.flip
        result = {"image": flip(target) if mirrored else target}
        if options.view_size:
            seen = view(
                image,
                box,
                options.view_size,
                rng,
                options.view_min_scale,
                options.view_flip,
                options.view_jitter,
            )
            result["view"] = flip(seen) if mirrored else seen
        return result


class _Order:
    """Example number to record index: every record once an epoch.

    Above `_SMALL` records grain computes each place of the shuffle by itself,
    with no memory; below, its search would take up to milliseconds (it walks
    65,536 places for a handful of records), so the epoch is permuted whole.
    """

    def __init__(self, length: int, seed: int, shuffle: bool) -> None:
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


@lru_cache(maxsize=64)
def _permutation(length: int, seed: int, epoch: int) -> np.ndarray:
    # The third number keeps these draws apart from those of example `epoch`.
    return np.random.default_rng((seed, epoch, 1)).permutation(length)


class _Steps:
    """The batches of a pipeline as a random-access source for grain."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, step: int) -> Batch:
        return self._pipeline.batch(step)


def _parse_flags() -> None:
    """grain's workers read absl flags, which only absl programs parse."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
