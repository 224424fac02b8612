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
from dataclasses import dataclass

import numpy as np

from i2i_prior.data.broken import Batch, BrokenTally, describe, open_picture
from i2i_prior.data.buckets import Buckets
from i2i_prior.data.crops import (
    Size,
    center_box,
    flip,
    jitter,
    random_box,
    view_box,
)
from i2i_prior.data.decode_image import (
    BrokenImage,
    Picture,
)
from i2i_prior.data.held_out import evaluation_crops
from i2i_prior.data.order import order_of
from i2i_prior.data.prefetch import batches_from
from i2i_prior.data.record import Source
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
        image: (b, S, S, 3) uint8, the target crop; with buckets (b, H, W, 3)
            of the size of this batch.
        view: (b, V, V, 3) uint8, only with `view_size`.
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
                picture = open_picture(self._source, index)
                example = self._crops(picture, rng, shape)
            except BrokenImage:
                # A broken image takes no draws, wherever it breaks. Drawn,
                # not the next in order: damage comes in runs, as when a
                # download broke off.
                rng.bit_generator.state = before
                index = int(rng.integers(len(self._source)))
                continue
            broken = -1 if index == first else first
            if self._buckets is not None:
                original = picture.height, picture.width
                ratio = self._buckets.ratio(shape)
                example["size"] = np.array(original, np.float32)
                example["aspect"] = np.array([ratio], np.float32)
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
        self, picture: Picture, rng: np.random.Generator, shape: Size
    ) -> dict[str, np.ndarray]:
        """Target and view of one image; draws crop, flip, view, in order.

        The boxes are drawn before a pixel is decoded, so that a JPEG need
        not be at more than their scale.
        """
        options = self._options
        height, width = picture.height, picture.width
        if min(height, width) < options.min_side:
            raise BrokenImage("is smaller than the crop")
        aspect = None if isinstance(shape, int) else shape[1] / shape[0]
        exact = options.crop != "random"
        if not exact:
            ratio = (aspect, aspect) if aspect else (3 / 4, 4 / 3)
            scale = (options.min_scale, 1.0)
            box = random_box(height, width, rng, scale, ratio)
        else:
            box = center_box(height, width, aspect or 1.0)
        mirrored = rng.random() < options.flip
        if not options.view_size:
            (target,) = picture.cut([(box, shape)], exact)
            return {"image": flip(target) if mirrored else target}
        seen = view_box(box, rng, options.view_min_scale)
        view_mirrored = rng.random() < options.view_flip
        parts = [(box, shape), (seen, options.view_size)]
        target, view = picture.cut(parts, exact)
        view = jitter(view, rng, options.view_jitter)
        return {
            "image": flip(target) if mirrored else target,
            "view": flip(view) if mirrored != view_mirrored else view,
        }
