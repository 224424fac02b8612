"""Fixed crops of held-out images, the same for every run that measures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from i2i_prior.data.broken import read
from i2i_prior.data.crops import center_crop, random_resized_crop
from i2i_prior.data.images import BrokenImage
from i2i_prior.data.sources import Source
from i2i_prior.errors import UserError


def evaluation_crops(
    source: Source,
    count: int,
    size: int,
    seed: int = 0,
    min_scale: float = 0.25,
) -> np.ndarray:
    """Crops to measure on: fixed, and spread evenly over the images.

    With at least `count` images, the central squares of the first `count`
    readable ones in a seeded order; otherwise random crops, equally many of
    each readable image (to one), image after image.

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
    images = _readable(source, seed)
    if len(source) >= count:
        done = 0
        for crop, (_, image) in zip(crops, images, strict=False):
            crop[...] = center_crop(image, size)
            done += 1
        if done < count:
            raise UserError(
                f"Only {done} of {len(source)} images are readable, but "
                f"{count} are asked for: ask for fewer or mend the source."
            )
        return crops
    # Twice decoded rather than all kept: megapixels add up.
    readable = [index for index, _ in images]
    if not readable:
        raise UserError("There is no readable image: check the image source.")
    blocks = np.array_split(crops, len(readable))
    for block, index in zip(blocks, readable, strict=True):
        image = read(source, index)
        rng = np.random.default_rng((seed, index))
        for crop in block:
            crop[...], _ = random_resized_crop(
                image, size, rng, (min_scale, 1.0)
            )
    return crops


def _readable(source: Source, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (index, pixels) of the readable images in a seeded order."""
    for index in np.random.default_rng(seed).permutation(len(source)).tolist():
        try:
            yield index, read(source, index)
        except BrokenImage:
            continue
