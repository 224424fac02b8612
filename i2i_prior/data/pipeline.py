"""The batch of a step: a pure function of (source, options, step).

Shuffled, mixed record numbers (`order`), pixels (`transforms`), made ahead in
threads and processes by Grain. Example number n = step * batch_size + row
takes all its random numbers from a generator seeded with (seed, n). So there
is no iterator state: a run resumes at any step, and the global batch is the
same on any number of hosts, worker processes and threads.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import grain
import numpy as np
from absl import flags

from i2i_prior.data.broken import Batch, describe, read_record
from i2i_prior.data.buckets import Buckets
from i2i_prior.data.decode_image import BrokenImage
from i2i_prior.data.order import Order, order_of
from i2i_prior.data.record import Source
from i2i_prior.data.transforms import (
    OPTIONS,
    Draft,
    Transform,
    apply,
    label_of,
    make_transforms,
    open_image,
    render,
    require,
    require_share,
)
from i2i_prior.errors import UserError

MAX_SUBSTITUTES = 64


@dataclass(frozen=True)
class DataOptions:
    """Options of the batches, sides in pixels, shares in [0, 1]; UserError if a
    value is out of its range."""

    image_size: int  # side of the target
    batch_size: int  # global, over all hosts
    seed: int = 0  # of order, crops and every other draw; not negative
    transforms: tuple[Transform, ...] = make_transforms()
    labels: bool = False  # the batch holds the records' class labels
    min_side: int = 0  # smaller images count as broken; 0 = scale them up
    threads: int = 4  # in each process
    workers: int = 0  # processes; 0 = this one
    prefetch: int = 8  # batches made ahead on this host
    shuffle: bool = True  # again each epoch; False = the source's order
    max_broken: float = 0.01  # greatest share of broken images of a run

    def __post_init__(self) -> None:
        for name in ("image_size", "batch_size", "threads", "prefetch"):
            require(getattr(self, name) >= 1, name, "at least 1")
        for name in ("seed", "min_side", "workers"):
            require(getattr(self, name) >= 0, name, "0 or more")
        require_share(self.max_broken, "max_broken")

    @classmethod
    def names(cls) -> set[str]:
        """Names of all options, those of the transforms among them."""
        own = {field.name for field in fields(cls)} - {"transforms"}
        return own | set(OPTIONS)

    @classmethod
    def of(
        cls, image_size: int, batch_size: int, **options: Any
    ) -> DataOptions:
        """Options by name, those of the transforms among them; TypeError if one
        is unknown, UserError if a value is out of its range."""
        drawn = {n: options.pop(n) for n in OPTIONS.keys() & options.keys()}
        transforms = make_transforms(**drawn)
        return cls(image_size, batch_size, transforms=transforms, **options)


class Batches:
    """The batches of a run, `batch(step)` for step 0, 1, ...

    Args:
        source: picklable where `workers` is not 0.
        batch_size: global.
        rows: of the global batch, in their order; None for all.
        threads: in each process.
        workers: processes that make batches; 0 for this one.
        prefetch: batches made ahead.
    """

    _stream: tuple[int, ...] = ()  # keeps a kind's generators apart

    def __init__(
        self,
        source: Any,
        order: Order,
        seed: int,
        batch_size: int,
        rows: Sequence[int] | None,
        threads: int = 4,
        workers: int = 0,
        prefetch: int = 8,
    ) -> None:
        everything = range(batch_size)
        self._rows = list(everything if rows is None else rows)
        if not self._rows or not set(self._rows) <= set(everything):
            raise ValueError(f"rows {self._rows} are not in {everything}")
        self._source, self._order = source, order
        self._seed, self._batch_size = seed, batch_size
        self._threads, self._workers = threads, workers
        self._prefetch = prefetch

    def batch(self, step: int) -> Batch:
        """The batch of `step`, or its rows for this host; a pure function.

        Not a chain of Grain maps: each takes about 10 us an example (0.2.18),
        and its `random_map` and `filter` cannot replace a broken record by
        one that its own generator draws, at its own place in the batch.

        IndexError if the step is negative, UserError if no readable record was
        found for an example.
        """
        if step < 0:
            raise IndexError(f"step {step} is negative")
        indices = [step * self._batch_size + row for row in self._rows]
        wanted = [self._order[index] for index in indices]
        examples, shown = self._examples(step, indices, wanted)
        first, last = np.array(wanted, np.int32), np.array(shown, np.int32)
        broken = np.where(last == first, -1, first).astype(np.int32)
        arrays = {
            name: np.stack([example[name] for example in examples])
            for name in examples[0]
        }
        return {**arrays, "index": last, "broken": broken}

    def _examples(
        self, step: int, indices: list[int], records: list[int]
    ) -> tuple[list[Batch], list[int]]:
        """Examples of a step, and the records that they show."""
        examples, shown = [], []
        for index, first in zip(indices, records, strict=True):
            example, record = self._substituted(step, index, first)
            examples.append(example)
            shown.append(record)
        return examples, shown

    def _substituted(
        self, step: int, index: int, first: int
    ) -> tuple[Batch, int]:
        """Example `index` of record `first`, or of another if that is broken.

        A broken record takes no draws, wherever it breaks. Its substitute is
        drawn, not the next in order: damage comes in runs, as when a download
        broke off.
        """
        record = first
        for substitutes in range(MAX_SUBSTITUTES + 1):
            rng = np.random.default_rng((self._seed, index, *self._stream))
            for _ in range(substitutes):
                record = int(rng.integers(len(self._source)))
            try:
                return self._example(step, index, record, rng), record
            except BrokenImage:
                continue
        raise UserError(self._hopeless(first))

    def _example(
        self, step: int, index: int, record: int, rng: np.random.Generator
    ) -> Batch:
        """Arrays of one example; raises BrokenImage."""
        raise NotImplementedError

    def _hopeless(self, first: int) -> str:
        """Message where a record and all its substitutes are broken."""
        raise NotImplementedError

    def batches_from(self, step: int) -> Generator[Batch]:
        """Endless `batch(step)`, `batch(step + 1)`, ..., made ahead.

        Starts at once at any step. Closing the iterator (`.close()`, or
        letting go of it) ends its threads and worker processes. Never more
        than `prefetch` batches wait (with workers, and one more in each).
        """
        ahead = -(-self._prefetch // max(1, self._workers))
        dataset = grain.MapDataset.range(step, sys.maxsize).map(self.batch)
        stream = dataset.to_iter_dataset(
            grain.ReadOptions(
                # Grain warns of more threads than places to fill.
                num_threads=min(self._threads, ahead),
                prefetch_buffer_size=ahead,
            )
        )
        if self._workers:
            # Grain's workers read absl flags, which only absl programs parse.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            stream = stream.mp_prefetch(
                grain.MultiprocessingOptions(
                    num_workers=self._workers, per_worker_buffer_size=1
                )
            )
        iterator = iter(stream)
        try:
            for batch in iterator:
                # Workers hand over views of shared memory: own the arrays.
                if self._workers:
                    batch = {name: np.array(a) for name, a in batch.items()}
                yield batch
        finally:
            iterator.close()


class Pipeline(Batches):
    """Batches of images, or one host's rows of them.

    A batch is a dict of arrays of b = len(rows) examples:
        image: (b, S, S, 3) uint8, the target crop; with buckets (b, H, W, 3)
            of the size of this batch.
        view: (b, V, V, 3) uint8, only with `view_size`.
        source_image: as `image`, only with `pair`; see `transforms`.
        label: (b,) int32, only with `labels`.
        index: (b,) int32, the record that is shown.
        broken: (b,) int32, the record that could not be read and is replaced
            by another, or -1. The substitute is drawn by the example's own
            generator, so it is the same on every run.
        size: (b, 2) float32, height and width of the original, and
        aspect: (b, 1) float32, the batch's height / width; both only with
            buckets.

    `buckets` has the sizes and records of the batches; None for squares. For
    `rows` see `Batches`.
    """

    def __init__(
        self,
        source: Source,
        options: DataOptions,
        rows: Sequence[int] | None = None,
        buckets: Buckets | None = None,
    ) -> None:
        order: Order | None = buckets
        if order is None:
            order = order_of(source, options.seed, options.shuffle)
        super().__init__(
            source,
            order,
            options.seed,
            options.batch_size,
            rows,
            options.threads,
            options.workers,
            options.prefetch,
        )
        self._options, self._buckets = options, buckets

    def _example(
        self, step: int, index: int, record: int, rng: np.random.Generator
    ) -> Batch:
        options, buckets = self._options, self._buckets
        found = read_record(self._source, record)
        picture = open_image(found)
        height, width = picture.height, picture.width
        if min(height, width) < options.min_side:
            raise BrokenImage("is smaller than the crop")
        shape = options.image_size if buckets is None else buckets.shape(step)
        draft = Draft(height, width, shape)
        apply(options.transforms, draft, rng, (options.seed, index))
        example = render(draft, found, picture)
        if options.labels:
            example["label"] = label_of(found)
        if buckets is not None:
            example["size"] = np.array((height, width), np.float32)
            ratio = buckets.ratio(shape)
            example["aspect"] = np.array([ratio], np.float32)
        return example

    def _hopeless(self, first: int) -> str:
        return (
            f"There is no readable image: {MAX_SUBSTITUTES} substitutes for "
            f"{describe(self._source, first)} were broken too, so check the "
            "image source and data options min_side and pair."
        )
