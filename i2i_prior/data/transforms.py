"""Transforms of training images: crop, flip, pair, view, jitter.

A transform changes a `Draft`: which boxes of which images become the arrays
of an example. Nothing is decoded until `render`, so that every random number
is drawn first and each image is decoded once, at the least scale that is
needed.

To add an augmentation, write a frozen dataclass here whose fields are its
options and whose `__call__` changes the draft, and append it to `TRANSFORMS`.
Its fields are then data options of the same names. One that works on pixels
appends a function to `Cut.adjust`. It draws from the generator it is given;
with a `stream` of its own above 16 it leaves the draws of all others as they
are.

Pairs. Records with several images (see `record`) train a translation from
one of them to the other by the option `pair="SOURCE:TARGET"`, both named by
what follows the key in the file name:

    tar:facades/train.tar with pair="labels.jpg:photo.jpg"

The batch then holds `source_image` (b, S, S, 3) uint8, here the labels, next
to `image`, here the photograph, of the same box and flip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, ClassVar, Protocol

import numpy as np

from i2i_prior.data.crops import (
    Box,
    Size,
    center_box,
    flip,
    jitter,
    random_box,
    view_box,
)
from i2i_prior.data.decode_image import BrokenImage, Picture
from i2i_prior.data.record import Record
from i2i_prior.errors import UserError

Adjust = Callable[[np.ndarray], np.ndarray]  # (H, W, 3) uint8 -> the same


@dataclass(frozen=True)
class Cut:
    """A box of an image that becomes one array of an example.

    Attributes:
        box: in pixels of the upright image.
        size: of the array, pixels.
        image: which image of the record, see `Record.image`.
        flipped: mirrored left to right.
        adjust: applied to the resized pixels, before the flip.
    """

    box: Box
    size: Size
    image: str = ""
    flipped: bool = False
    adjust: tuple[Adjust, ...] = ()


@dataclass(frozen=True)
class Draft:
    """An example before its pixels are decoded.

    Attributes:
        height, width: of the record's images, pixels.
        size: of the target, pixels.
        cuts: array of the batch -> where it is cut out.
        exact: see `Picture.cut`.
    """

    height: int
    width: int
    size: Size
    cuts: Mapping[str, Cut] = field(default_factory=dict)
    exact: bool = False

    def with_cuts(self, **cuts: Cut) -> Draft:
        """The draft with arrays added or replaced."""
        return replace(self, cuts={**self.cuts, **cuts})


class Transform(Protocol):
    """Draft and generator -> draft.

    Attributes:
        stream: 0 to share the example's generator, in the order of the
            transforms; otherwise the number of a generator of its own.
    """

    stream: ClassVar[int]

    def __call__(self, draft: Draft, rng: np.random.Generator) -> Draft:
        """The draft, changed by a fixed number of draws."""
        ...


@dataclass(frozen=True)
class Crop:
    """Cuts the target `image` out of the record's first image.

    Attributes:
        crop: "random" (as torchvision's RandomResizedCrop) or "center" (the
            largest central box).
        min_scale: least share of the image's area in a random crop.
    """

    stream = 0
    crop: str = "random"
    min_scale: float = 0.25

    def __post_init__(self) -> None:
        known = self.crop in ("random", "center")
        require(known, "crop", '"random" or "center"')
        _require_scale(self.min_scale, "min_scale")

    def __call__(self, draft: Draft, rng: np.random.Generator) -> Draft:
        size, height, width = draft.size, draft.height, draft.width
        aspect = None if isinstance(size, int) else size[1] / size[0]
        exact = self.crop == "center"
        if exact:
            box = center_box(height, width, aspect or 1.0)
        else:
            ratio = (aspect, aspect) if aspect else (3 / 4, 4 / 3)
            box = random_box(height, width, rng, (self.min_scale, 1.0), ratio)
        return replace(draft.with_cuts(image=Cut(box, size)), exact=exact)


@dataclass(frozen=True)
class Flip:
    """Mirrors all arrays together with probability `flip`."""

    stream = 0
    flip: float = 0.5

    def __post_init__(self) -> None:
        require_share(self.flip, "flip")

    def __call__(self, draft: Draft, rng: np.random.Generator) -> Draft:
        if rng.random() >= self.flip:
            return draft
        cuts = {
            name: replace(cut, flipped=not cut.flipped)
            for name, cut in draft.cuts.items()
        }
        return draft.with_cuts(**cuts)


@dataclass(frozen=True)
class Pair:
    """Adds `source_image`, cut and flipped as the target `image` is.

    Attributes:
        pair: "SOURCE:TARGET" by the ends of their names, as in
            "labels.jpg:photo.jpg"; "SOURCE" where the target is the record's
            first image; "" for no pair.
    """

    stream = 0
    pair: str = ""

    def __post_init__(self) -> None:
        source, colon, target = self.pair.partition(":")
        whole = bool(source) and bool(target) == bool(colon)
        whole &= ":" not in target and source != target
        require(
            not self.pair or whole,
            "pair",
            '"SOURCE:TARGET", two ends of file names such as '
            '"labels.jpg:photo.jpg"',
        )

    def __call__(self, draft: Draft, rng: np.random.Generator) -> Draft:
        if not self.pair:
            return draft
        source, _, target = self.pair.lower().partition(":")
        image = replace(draft.cuts["image"], image=target)
        return draft.with_cuts(
            image=image, source_image=replace(image, image=source)
        )


@dataclass(frozen=True)
class View:
    """Adds `view`, what an encoder sees: a box inside the target's box.

    Of a pair it shows the source, otherwise the target.

    Attributes:
        view_size: side in pixels; 0 for no view.
        view_min_scale: least share of the target's box.
        view_flip: probability of mirroring the view alone.
    """

    stream = 0
    view_size: int = 0
    view_min_scale: float = 1.0
    view_flip: float = 0.0

    def __post_init__(self) -> None:
        require(self.view_size >= 0, "view_size", "0 or more")
        _require_scale(self.view_min_scale, "view_min_scale")
        require_share(self.view_flip, "view_flip")

    def __call__(self, draft: Draft, rng: np.random.Generator) -> Draft:
        if not self.view_size:
            return draft
        seen = draft.cuts.get("source_image", draft.cuts["image"])
        box = view_box(seen.box, rng, self.view_min_scale)
        flipped = seen.flipped != (rng.random() < self.view_flip)
        view = replace(seen, box=box, size=self.view_size, flipped=flipped)
        return draft.with_cuts(view=view)


@dataclass(frozen=True)
class Jitter:
    """Changes brightness, contrast and saturation of `view`.

    Attributes:
        view_jitter: each factor is uniform in [1 - view_jitter, 1 +
            view_jitter].
    """

    stream = 0
    view_jitter: float = 0.0

    def __post_init__(self) -> None:
        require_share(self.view_jitter, "view_jitter")

    def __call__(self, draft: Draft, rng: np.random.Generator) -> Draft:
        view, strength = draft.cuts.get("view"), self.view_jitter
        if view is None or not strength:
            return draft
        factors = rng.uniform(1 - strength, 1 + strength, 3)
        change: Adjust = partial(jitter, factors=factors)
        adjust = (*view.adjust, change)
        return draft.with_cuts(view=replace(view, adjust=adjust))


# In the order in which they are applied and draw.
TRANSFORMS: tuple[type[Any], ...] = (Crop, Flip, Pair, View, Jitter)
OPTIONS = {
    field.name: transform
    for transform in TRANSFORMS
    for field in fields(transform)
}


def make_transforms(**options: Any) -> tuple[Transform, ...]:
    """All transforms, with those of their options that are given.

    Args:
        options: values by the name of a field of a transform.

    Raises:
        TypeError: no transform has such an option.
        UserError: a value is out of its range.
    """
    if unknown := options.keys() - OPTIONS.keys():
        raise TypeError(f"no transform has {', '.join(sorted(unknown))}")
    return tuple(
        transform(
            **{n: v for n, v in options.items() if OPTIONS[n] is transform}
        )
        for transform in TRANSFORMS
    )


def apply(
    transforms: Iterable[Transform],
    draft: Draft,
    rng: np.random.Generator,
    key: tuple[int, int],
) -> Draft:
    """The draft after all transforms.

    Args:
        rng: of the example.
        key: seed and number of the example, for streams of their own.
    """
    for transform in transforms:
        stream = transform.stream
        own = np.random.default_rng((*key, stream)) if stream else rng
        draft = transform(draft, own)
    return draft


def render(draft: Draft, record: Record, first: Picture) -> dict[str, Any]:
    """Pixels of a draft, each image of the record decoded once.

    Args:
        first: the record's first image.

    Returns:
        (height, width, 3) uint8 by the names of the cuts.

    Raises:
        BrokenImage: an image is missing, damaged, or of another size than the
            first.
    """
    arrays: dict[str, Any] = dict.fromkeys(draft.cuts)
    for image in dict.fromkeys(cut.image for cut in draft.cuts.values()):
        picture = open_image(record, image) if image else first
        if (picture.height, picture.width) != (draft.height, draft.width):
            raise BrokenImage(f"has another size than its {image}")
        cuts = {n: cut for n, cut in draft.cuts.items() if cut.image == image}
        parts = [(cut.box, cut.size) for cut in cuts.values()]
        pixels = picture.cut(parts, draft.exact)
        for (name, cut), array in zip(cuts.items(), pixels, strict=True):
            for adjust in cut.adjust:
                array = adjust(array)
            arrays[name] = flip(array) if cut.flipped else array
    return arrays


def open_image(record: Record, image: str = "") -> Picture:
    """One image of a record, of which no pixel is decoded yet.

    Raises:
        BrokenImage: it is not there, of no known format, or too large.
    """
    try:
        data = record.image(image)
    except KeyError:
        raise BrokenImage(f"has no {image} next to it") from None
    return Picture(Record(record.name, data))


def label_of(record: Record) -> np.ndarray:
    """The class of a record, int32 ().

    Raises:
        BrokenImage: it has none.
    """
    label = record.fields.get("label")
    if label is None:
        raise BrokenImage("has no class label")
    return np.array(label, np.int32)


def require(holds: bool, name: str, wanted: str) -> None:
    """Raises UserError unless a data option holds what is wanted of it."""
    if not holds:
        raise UserError(f"Data option {name} must be {wanted}: set it so.")


def require_share(value: float, name: str) -> None:
    """Raises UserError unless a data option is in [0, 1]."""
    require(0 <= value <= 1, name, "from 0 to 1")


def _require_scale(value: float, name: str) -> None:
    require(0 < value <= 1, name, "above 0, at most 1")
