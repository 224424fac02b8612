"""The batch of a step: a pure function of (source, options, step).

Example number n = step * batch_size + j is record `order[n]`, where `order`
shuffles anew each epoch (n // len(source)); all its random draws come from a
generator seeded with (seed, n). So there is no iterator state: a run resumes
by asking for the batch of its step, and the global batch is the same on any
number of hosts, worker processes and threads: each host makes the rows of it
that its devices hold.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from i2i_prior.data.broken import (
    Batch,
    BrokenTally,
    describe,
    read_record,
)
from i2i_prior.data.buckets import Buckets
from i2i_prior.data.crops import Size
from i2i_prior.data.decode_image import BrokenImage
from i2i_prior.data.held_out import evaluation_crops
from i2i_prior.data.order import order_of
from i2i_prior.data.prefetch import batches_from
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

__all__ = [
    "Batch",
    "BrokenTally",
    "DataOptions",
    "Pipeline",
    "evaluation_crops",
]

_MAX_SUBSTITUTES = 64


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
    shuffle: bool = True  # anew each epoch; False = the source's order
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
    def of(cls, **options: Any) -> DataOptions:
        """Options by name, those of the transforms among them.

        Raises:
            TypeError: an option is unknown.
            UserError: a value is out of its range.
        """
        own = {n: v for n, v in options.items() if n not in OPTIONS}
        drawn = {n: v for n, v in options.items() if n in OPTIONS}
        return cls(**own, transforms=make_transforms(**drawn))


class Pipeline:
    """Batches, or one host's rows of them.

    A batch is a dict of arrays of b = len(rows) examples:
        image: (b, S, S, 3) uint8, the target crop; with buckets (b, H, W, 3)
            of the size of this batch.
        view: (b, V, V, 3) uint8, only with `view_size`.
        source_image: as `image`, only with `pair`; see `transforms`.
        label: (b,) int32, only with `labels`.
        index: (b,) int32, the record that is shown.
        broken: (b,) int32, the record that should have been shown but could
            not be read, or -1. The one shown instead is drawn by the
            example's own generator, so it is the same on every run.
        size: (b, 2) float32, height and width of the original, and
        aspect: (b, 1) float32, the batch's height / width; both only with
            buckets.

    Args:
        source: the images; picklable where `options.workers` is not 0.
        options: see `DataOptions`.
        rows: of the global batch, in their order; None for all.
        buckets: which sizes and records batches have; None for squares.
    """

    def __init__(
        self,
        source: Source,
        options: DataOptions,
        rows: Sequence[int] | None = None,
        buckets: Buckets | None = None,
    ) -> None:
        everything = range(options.batch_size)
        self._rows = everything if rows is None else tuple(rows)
        if not self._rows or not set(self._rows) <= set(everything):
            raise ValueError(f"rows {rows} are not in {everything}")
        self._source = source
        self._options = options
        self._order = order_of(source, options.seed, options.shuffle)
        self._buckets = buckets

    def batch(self, step: int) -> Batch:
        """The batch of `step` (from 0), or its rows for this host.

        Raises:
            UserError: no readable image was found for an example.
        """
        if step < 0:
            raise IndexError(f"step {step} is negative")
        start = step * self._options.batch_size
        shape: Size = self._options.image_size
        if self._buckets is None:
            records = [self._order[start + row] for row in self._rows]
        else:
            shape, chosen = self._buckets.batch(step)
            records = chosen[list(self._rows)].tolist()
        examples = [
            self._example(start + row, record, shape)
            for row, record in zip(self._rows, records, strict=True)
        ]
        names = examples[0].keys()
        return {
            name: np.stack([example[name] for example in examples])
            for name in names
        }

    def batches_from(self, step: int) -> Generator[Batch]:
        """Endless `batch(step)`, `batch(step + 1)`, ..., made ahead.

        Starts at once at any step; closing the iterator ends its threads and
        worker processes. See `ahead.batches_from`.
        """
        options = self._options
        return batches_from(
            self,
            step,
            threads=options.threads,
            workers=options.workers,
            prefetch=options.prefetch,
        )

    def _example(
        self, number: int, first: int, shape: Size
    ) -> dict[str, np.ndarray]:
        """Example `number` of the run, with a substitute where broken."""
        options, index = self._options, first
        rng = np.random.default_rng((options.seed, number))
        for _ in range(_MAX_SUBSTITUTES + 1):
            before = rng.bit_generator.state
            try:
                record = read_record(self._source, index)
                picture = open_image(record)
                height, width = picture.height, picture.width
                if min(height, width) < options.min_side:
                    raise BrokenImage("is smaller than the crop")
                draft = Draft(height, width, shape)
                key = options.seed, number
                draft = apply(options.transforms, draft, rng, key)
                example = render(draft, record, picture)
                if options.labels:
                    example["label"] = label_of(record)
            except BrokenImage:
                # A broken image takes no draws, wherever it breaks. Drawn,
                # not the next in order: damage comes in runs, as when a
                # download broke off.
                rng.bit_generator.state = before
                index = int(rng.integers(len(self._source)))
                continue
            broken = -1 if index == first else first
            if self._buckets is not None:
                ratio = self._buckets.ratio(shape)
                example["size"] = np.array((height, width), np.float32)
                example["aspect"] = np.array([ratio], np.float32)
            return example | {
                "index": np.array(index, np.int32),
                "broken": np.array(broken, np.int32),
            }
        raise UserError(
            f"There is no readable image: {_MAX_SUBSTITUTES} substitutes for "
            f"{describe(self._source, first)} were broken too, so check the "
            "image source and data options min_side and pair."
        )
