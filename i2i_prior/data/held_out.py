"""Fixed crops of held-out images, the same for every run that measures."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from i2i_prior.data.broken import read
from i2i_prior.data.crops import center_crop, random_resized_crop, resize
from i2i_prior.data.decode_image import BrokenImage
from i2i_prior.data.sources import Source
from i2i_prior.errors import UserError


def evaluation_crops(
    source: Source,
    count: int,
    size: int,
    seed: int = 0,
    min_scale: float = 0.25,
) -> np.ndarray:
    """Crops to measure on, `each_crop` all at once.

    Args:
        source: the held-out images.
        count: number of crops.
        size: their side in pixels.
        seed: of order and boxes.
        min_scale: least share of an image's area in a random crop.

    Returns:
        (count, size, size, 3) uint8, all in memory.

    Raises:
        UserError: too few images are readable.
    """
    crops = np.empty((count, size, size, 3), np.uint8)
    found = each_crop(source, count, (size,), seed, min_scale)
    for crop, (image,) in zip(crops, found, strict=True):
        crop[...] = image
    return crops


def each_crop(
    source: Source,
    count: int,
    sizes: Sequence[int],
    seed: int = 0,
    min_scale: float = 0.25,
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields crops to measure on, fixed and spread evenly over the images.

    With at least `count` images, the central squares of the first `count`
    readable ones in a seeded order; otherwise random crops, equally many of
    each readable image (to one), image after image.

    Args:
        sizes: sides in pixels; every crop comes once in each of them.
        source, count, seed, min_scale: as `evaluation_crops`.

    Yields:
        the same box as uint8 (size, size, 3) for each size.

    Raises:
        UserError: too few images are readable.
    """
    images = _readable(source, seed)
    if len(source) >= count:
        done = 0
        for _, image in itertools.islice(images, count):
            yield tuple(center_crop(image, size) for size in sizes)
            done += 1
        if done < count:
            raise UserError(
                f"Only {done} of {len(source)} images are readable, but "
                f"{count} are asked for: ask for fewer or mend the source."
            )
        return
    # Twice decoded rather than all kept: megapixels add up.
    readable = [index for index, _ in images]
    if not readable:
        raise UserError("There is no readable image: check the image source.")
    shares = np.array_split(np.arange(count), len(readable))
    for share, index in zip(shares, readable, strict=True):
        image = read(source, index)
        rng = np.random.default_rng((seed, index))
        for _ in share:
            crop, box = random_resized_crop(
                image, sizes[0], rng, (min_scale, 1.0)
            )
            yield crop, *(resize(image, box, size) for size in sizes[1:])


def _readable(source: Source, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (index, pixels) of the readable images in a seeded order."""
    for index in np.random.default_rng(seed).permutation(len(source)).tolist():
        try:
            yield index, read(source, index)
        except BrokenImage:
            continue
