"""Transforms of training images: crop, flip, pair, view, jitter.

A transform changes a `Draft`, the boxes of images that become the arrays of an
example. Nothing is decoded until `render`, so that every random number
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

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, ClassVar, Protocol

import numpy as np

from i2i_prior.data import crops
from i2i_prior.data.crops import Box, Size
from i2i_prior.data.decode_image import BrokenImage, Picture
from i2i_prior.data.record import Record
from i2i_prior.errors import UserError

Adjust = Callable[[np.ndarray], np.ndarray]  # (H, W, 3) uint8 -> the same


@dataclass(slots=True)
class Cut:
    """A box of an image that becomes one array of an example."""

    box: Box  # in pixels of the upright image
    size: Size  # of the array, pixels
    image: str = ""  # which one of the record, see `Record.image`
    flipped: bool = False  # mirrored left to right
    adjust: tuple[Adjust, ...] = ()  # of the resized pixels, before the flip


@dataclass(slots=True)
class Draft:
    """An example before its pixels are decoded, changed by transforms."""

    height: int  # of the record's images, pixels
    width: int
    size: Size  # of the target, pixels
    cuts: dict[str, Cut] = field(default_factory=dict)  # by array of the batch
    exact: bool = False  # see `Picture.cut`


class Transform(Protocol):
    """Function that changes a draft in place."""

    # 0 to share the example's generator, in the order of the transforms;
    # otherwise the number of a generator of its own.
    stream: ClassVar[int]

    def __call__(self, draft: Draft, rng: np.random.Generator) -> None:
        """Changes the draft, by draws that do not depend on pixels."""
        ...


@dataclass(frozen=True)
class Crop:
    """Cuts the target `image` out of the record's first image.

    "random" is torchvision's RandomResizedCrop, "center" the largest central
    box.
    """

    stream = 0
    crop: str = "random"
    min_scale: float = 0.25  # least share of the image's area, if random

    def __post_init__(self) -> None:
        known = self.crop in ("random", "center")
        require(known, "crop", '"random" or "center"')
        scale = 0 < self.min_scale <= 1
        require(scale, "min_scale", "above 0, at most 1")

    def __call__(self, draft: Draft, rng: np.random.Generator) -> None:
        size, sides = draft.size, (draft.height, draft.width)
        aspect = None if isinstance(size, int) else size[1] / size[0]
        draft.exact = self.crop == "center"
        if draft.exact:
            box = crops.center_box(*sides, aspect or 1.0)
        else:
            ratio = (aspect, aspect) if aspect else (3 / 4, 4 / 3)
            box = crops.random_box(*sides, rng, (self.min_scale, 1.0), ratio)
        draft.cuts["image"] = Cut(box, size)


@dataclass(frozen=True)
class Flip:
    """Mirrors all arrays together with probability `flip`."""

    stream = 0
    flip: float = 0.5

    def __post_init__(self) -> None:
        require_share(self.flip, "flip")

    def __call__(self, draft: Draft, rng: np.random.Generator) -> None:
        if rng.random() < self.flip:
            for cut in draft.cuts.values():
                cut.flipped = not cut.flipped


@dataclass(frozen=True)
class Pair:
    """Adds `source_image`, cut and flipped as the target `image` is.

    `pair` is "SOURCE:TARGET" by the ends of their names, as in
    "labels.jpg:photo.jpg"; "SOURCE" where the target is the record's first
    image; "" for no pair.
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

    def __call__(self, draft: Draft, rng: np.random.Generator) -> None:
        if self.pair:
            source, _, target = self.pair.lower().partition(":")
            image = draft.cuts["image"]
            image.image = target
            draft.cuts["source_image"] = replace(image, image=source)


@dataclass(frozen=True)
class View:
    """Adds `view`, the input of an encoder: a box inside the target's box.

    Of a pair it shows the source, otherwise the target.
    """

    stream = 0
    view_size: int = 0  # side in pixels; 0 for no view
    view_min_scale: float = 1.0  # least share of the target's box
    view_flip: float = 0.0  # probability of mirroring the view alone

    def __post_init__(self) -> None:
        require(self.view_size >= 0, "view_size", "0 or more")
        scale = 0 < self.view_min_scale <= 1
        require(scale, "view_min_scale", "above 0, at most 1")
        require_share(self.view_flip, "view_flip")

    def __call__(self, draft: Draft, rng: np.random.Generator) -> None:
        if not self.view_size:
            return
        seen = draft.cuts.get("source_image", draft.cuts["image"])
        box = crops.view_box(seen.box, rng, self.view_min_scale)
        flipped = seen.flipped != (rng.random() < self.view_flip)
        draft.cuts["view"] = Cut(
            box, self.view_size, seen.image, flipped, seen.adjust
        )


@dataclass(frozen=True)
class Jitter:
    """Changes brightness, contrast and saturation of `view`.

    Each factor is uniform in [1 - view_jitter, 1 + view_jitter].
    """

    stream = 0
    view_jitter: float = 0.0

    def __post_init__(self) -> None:
        require_share(self.view_jitter, "view_jitter")

    def __call__(self, draft: Draft, rng: np.random.Generator) -> None:
        view, strength = draft.cuts.get("view"), self.view_jitter
        if view is None or not strength:
            return
        factors = rng.uniform(1 - strength, 1 + strength, 3)
        view.adjust = (*view.adjust, partial(crops.jitter, factors=factors))


# In the order in which they are applied and draw.
TRANSFORMS: tuple[type[Any], ...] = (Crop, Flip, Pair, View, Jitter)
OPTIONS = {
    field.name: transform
    for transform in TRANSFORMS
    for field in fields(transform)
}


def make_transforms(**options: Any) -> tuple[Transform, ...]:
    """All transforms, with those of their options (fields) that are given.

    TypeError if no transform has such an option, UserError if a value is out of
    its range.
    """
    if unknown := options.keys() - OPTIONS.keys():
        raise TypeError(f"no transform has {', '.join(sorted(unknown))}")
    given: dict[type, dict[str, Any]] = {cls: {} for cls in TRANSFORMS}
    for name, value in options.items():
        given[OPTIONS[name]][name] = value
    return tuple(cls(**own) for cls, own in given.items())


def apply(
    transforms: Iterable[Transform],
    draft: Draft,
    rng: np.random.Generator,
    key: tuple[int, int],
) -> None:
    """Applies all transforms to a draft; `key`, seed and number of the example,
    is for streams of their own."""
    for transform in transforms:
        own = transform.stream
        transform(draft, np.random.default_rng((*key, own)) if own else rng)


def render(draft: Draft, record: Record, first: Picture) -> dict[str, Any]:
    """Pixels of a draft, each image of the record decoded once.

    `first` is the record's first image. Returns (height, width, 3) uint8 by the
    names of the cuts. BrokenImage if an image is missing, damaged, or of
    another size than the first.
    """
    arrays: dict[str, Any] = {}
    for image in dict.fromkeys([cut.image for cut in draft.cuts.values()]):
        picture = open_image(record, image) if image else first
        if (picture.height, picture.width) != (draft.height, draft.width):
            raise BrokenImage(f"has another size than its {image}")
        names = [n for n, cut in draft.cuts.items() if cut.image == image]
        parts = [(draft.cuts[n].box, draft.cuts[n].size) for n in names]
        pixels = picture.cut(parts, draft.exact)
        for name, array in zip(names, pixels, strict=True):
            cut = draft.cuts[name]
            for adjust in cut.adjust:
                array = adjust(array)
            arrays[name] = crops.flip(array) if cut.flipped else array
    return arrays


def open_image(record: Record, image: str = "") -> Picture:
    """One image of a record, of which no pixel is decoded yet; BrokenImage if
    it is not there, of no known format, or too large."""
    try:
        data = record.image(image)
    except KeyError:
        raise BrokenImage(f"has no {image} next to it") from None
    return Picture(Record(record.name, data) if image else record)


def label_of(record: Record) -> np.ndarray:
    """The class of a record, int32 (); BrokenImage if it has none."""
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
