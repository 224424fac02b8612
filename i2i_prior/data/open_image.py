"""An image a user names, opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from i2i_prior.data.decode_image import (
    BrokenImage,
    decode,
)
from i2i_prior.data.sources import Record
from i2i_prior.errors import UserError

Image = str | Path | np.ndarray


def open_image(image: Image) -> np.ndarray:
    """A path or a uint8 array -> uint8 (H, W, 3).

    Raises:
      UserError: where it cannot be read, or is no uint8 RGB array.
    """
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
