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

from i2i_prior.data.broken import (
    MAX_SUBSTITUTES,
    Batch,
    describe,
    read_record,
    with_substitutes,
)
from i2i_prior.data.buckets import Buckets
from i2i_prior.data.crops import Size
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


@dataclass(frozen=True)
class DataOptions:
    """Options of the batches; sides in pixels, shares in [0, 1].

    Raises:
        UserError: a value is out of its range.
    """

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
        """Options by name, those of the transforms among them.

        Raises:
            TypeError: an option is unknown.
            UserError: a value is out of its range.
        """
        drawn = {n: options.pop(n) for n in OPTIONS.keys() & options.keys()}
        transforms = make_transforms(**drawn)
        return cls(image_size, batch_size, transforms=transforms, **options)


class Batches:
    """The batches of a run, `batch(step)` for step 0, 1, ...

    Args:
        threads: in each process.
        workers: processes that make batches; 0 for this one, otherwise `self`
            is picklable.
        prefetch: batches made ahead.
    """

    def __init__(
        self, threads: int = 4, workers: int = 0, prefetch: int = 8
    ) -> None:
        self._threads, self._workers = threads, workers
        self._prefetch = prefetch

    def batch(self, step: int) -> Batch:
        """The batch of `step`, or its rows for this host; a pure function.

        Raises:
            IndexError: the step is negative.
            UserError: no readable record was found for an example.
        """
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

    Args:
        source: the images; picklable where `options.workers` is not 0.
        options: see `DataOptions`.
        rows: of the global batch, in their order; None for all.
        buckets: sizes and records of the batches; None for squares.
    """

    def __init__(
        self,
        source: Source,
        options: DataOptions,
        rows: Sequence[int] | None = None,
        buckets: Buckets | None = None,
    ) -> None:
        everything = range(options.batch_size)
        rows = tuple(everything if rows is None else rows)
        if not rows or not set(rows) <= set(everything):
            raise ValueError(f"rows {rows} are not in {everything}")
        super().__init__(options.threads, options.workers, options.prefetch)
        self._source, self._options = source, options
        self._rows, self._buckets = rows, buckets
        self._order: Order | None = buckets
        if self._order is None:
            self._order = order_of(source, options.seed, options.shuffle)

    def batch(self, step: int) -> Batch:
        """See `Batches`.

        Not a chain of Grain maps: each takes about 10 us an example (0.2.18),
        and its `random_map` and `filter` cannot replace a broken record by
        one that its own generator draws, at its own place in the batch.
        """
        if step < 0:
            raise IndexError(f"step {step} is negative")
        buckets, options = self._buckets, self._options
        shape = options.image_size if buckets is None else buckets.shape(step)
        start = step * options.batch_size
        examples = [self._example(start + row, shape) for row in self._rows]
        return {
            name: np.stack([example[name] for example in examples])
            for name in examples[0]
        }

    def _example(self, index: int, shape: Size) -> dict[str, np.ndarray]:
        """Example `index` of the run, with a substitute if it is broken."""
        first = self._order[index]  # type: ignore[index]
        key = self._options.seed, index
        made = with_substitutes(
            lambda record, rng: self._arrays(record, key, shape, rng),
            first,
            len(self._source),
            key,
        )
        if made is None:
            raise UserError(
                f"There is no readable image: {MAX_SUBSTITUTES} substitutes "
                f"for {describe(self._source, first)} were broken too, so "
                "check the image source and data options min_side and pair."
            )
        example, record = made
        example["index"] = np.array(record, np.int32)
        broken = -1 if record == first else first
        example["broken"] = np.array(broken, np.int32)
        return example

    def _arrays(
        self,
        number: int,
        key: tuple[int, int],
        shape: Size,
        rng: np.random.Generator,
    ) -> dict[str, np.ndarray]:
        """Arrays of record `number`; raises BrokenImage."""
        options = self._options
        record = read_record(self._source, number)
        picture = open_image(record)
        height, width = picture.height, picture.width
        if min(height, width) < options.min_side:
            raise BrokenImage("is smaller than the crop")
        draft = Draft(height, width, shape)
        apply(options.transforms, draft, rng, key)
        example = render(draft, record, picture)
        if options.labels:
            example["label"] = label_of(record)
        if self._buckets is not None:
            example["size"] = np.array((height, width), np.float32)
            ratio = self._buckets.ratio(shape)
            example["aspect"] = np.array([ratio], np.float32)
        return example
