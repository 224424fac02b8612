"""Images that a user gives as path, array or SPEC."""

from pathlib import Path

import numpy as np

from i2i_prior.data.decode_image import BrokenImage, decode
from i2i_prior.data.record import Record
from i2i_prior.data.sources.registry import SCHEMES, open_source
from i2i_prior.errors import UserError

Image = str | Path | np.ndarray
MOST_IMAGES = 64  # of a SPEC: conditions that fit one grid


def find_images(text: str) -> list[tuple[str, np.ndarray]]:
    """Finds the images of a path, a SPEC or SPEC#NAME.

    The text after a SPEC's `#` is a record's name unless it is options. Returns
    name and pixels, uint8 (H, W, 3), of each image. UserError if there is no
    image, one is unreadable, or the SPEC holds more than `MOST_IMAGES`.
    """
    scheme = text.partition(":")[0]
    if scheme not in SCHEMES or Path(text).exists():
        return [(Path(text).name, open_image(text))]
    spec, _, wanted = text.rpartition("#")
    if not spec or "=" in wanted:
        spec, wanted = text, ""
    source = open_source(spec)
    if not wanted and len(source) > MOST_IMAGES:
        raise UserError(
            f"{spec} holds {len(source)} images; name one as {spec}#NAME"
        )
    records = (source[i] for i in range(len(source)))
    try:
        found = [
            (record.name, decode(record))
            for record in records
            if wanted in ("", record.name)
        ]
    except BrokenImage as error:
        raise UserError(f"an image of {spec} is unusable: {error}") from error
    if not found:
        raise UserError(f"{spec} holds no image named {wanted}")
    return found


def open_image(image: Image) -> np.ndarray:
    """Pixels (H, W, 3) uint8 of a path or an array; UserError if it cannot be
    read, or is no uint8 RGB array."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError(
                f"an image array is uint8 (H, W, 3), not {image.dtype} "
                f"{image.shape}"
            )
        return image
    try:
        with open(image, "rb") as file:
            return decode(Record(str(image), file.read()))
    except OSError as error:
        raise UserError(
            f"cannot read the image {image} ({error.strerror})"
        ) from error
    except BrokenImage as error:
        raise UserError(f"the image {image} is unusable: {error}") from error
