"""Fixed crops of held-out images, the same for every evaluation."""

import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from i2i_prior.data.broken import read_record
from i2i_prior.data.crops import center_crop, random_box, resize
from i2i_prior.data.decode_image import BrokenImage
from i2i_prior.data.record import Source
from i2i_prior.data.transforms import label_of, open_image
from i2i_prior.errors import UserError


def each_example(
    source: Source,
    count: int,
    cuts: Mapping[str, tuple[str, int]],
    labels: bool = False,
    seed: int = 0,
    min_scale: float = 0.25,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields evaluation crops, fixed and spread evenly over the records.

    With at least `count` records, the central squares of the first `count`
    readable ones in a seeded order; otherwise random crops, equally many of
    each readable record (to one), record after record.

    `cuts` are, by name, an image of the record (see `Record.image`) and a side
    in pixels; examples have (size, size, 3) uint8 by these names, all of the
    same box. `labels` adds `label`, int32 (). `seed` is that of order and
    boxes, `min_scale` the least share of an image's area in a random crop.
    UserError if too few images are readable.
    """
    examples = _readable(source, seed, cuts, labels)
    if len(source) >= count:
        done = 0
        for _, images, label in itertools.islice(examples, count):
            yield label | {
                name: center_crop(images[image], size)
                for name, (image, size) in cuts.items()
            }
            done += 1
        if done < count:
            raise UserError(
                f"Only {done} of {len(source)} images are readable, but "
                f"{count} are asked for: ask for fewer or repair the source."
            )
        return
    # Decoded twice, since keeping all would fill the memory.
    readable = [index for index, _, _ in examples]
    if not readable:
        raise UserError("There is no readable image: check the image source.")
    shares = np.array_split(np.arange(count), len(readable))
    for share, index in zip(shares, readable, strict=True):
        images, label = _decode(source, index, cuts, labels)
        rng = np.random.default_rng((seed, index))
        height, width = next(iter(images.values())).shape[:2]
        for _ in share:
            box = random_box(height, width, rng, (min_scale, 1.0))
            yield label | {
                name: resize(images[image], box, size)
                for name, (image, size) in cuts.items()
            }


def _decode(
    source: Source,
    index: int,
    cuts: Mapping[str, tuple[str, int]],
    labels: bool,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Pixels by the images of the cuts, and the label if `labels`."""
    record = read_record(source, index)
    images = {
        name: open_image(record, name).pixels()
        for name in dict.fromkeys(image for image, _ in cuts.values())
    }
    if len({pixels.shape for pixels in images.values()}) > 1:
        raise BrokenImage("has images of several sizes")
    return images, {"label": label_of(record)} if labels else {}


def _readable(
    source: Source, seed: int, cuts: Mapping[str, tuple[str, int]], labels: bool
) -> Iterator[tuple[int, dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Yields number, images and label of readable records, in seeded order."""
    for index in np.random.default_rng(seed).permutation(len(source)).tolist():
        try:
            yield index, *_decode(source, index, cuts, labels)
        except BrokenImage:
            continue
