"""Images that a command line names by path or SPEC."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from i2i_prior.data.decode_image import BrokenImage, decode
from i2i_prior.data.open_image import open_image
from i2i_prior.data.sources import OPENERS, open_source
from i2i_prior.errors import UserError

MOST_IMAGES = 64  # of a SPEC: conditions that fit one grid


def find_images(text: str) -> list[tuple[str, np.ndarray]]:
    """Finds the images of a path, a SPEC or SPEC#NAME.

    The text after a SPEC's `#` is a record's name unless it is options.

    Returns:
      name and pixels, uint8 (H, W, 3), of each image.

    Raises:
      UserError: if there is no image, one is unreadable, or the SPEC holds
        more than `MOST_IMAGES`.
    """
    scheme = text.partition(":")[0]
    if scheme not in (*OPENERS, "mix") or Path(text).exists():
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
