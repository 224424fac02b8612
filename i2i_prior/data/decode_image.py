"""Encoded images, decoded upright as a whole or box by box."""

from collections.abc import Sequence

import numpy as np

from i2i_prior.data.crops import Box, Size, resize, sides
from i2i_prior.data.decoding import (
    MAX_PIXELS,
    BrokenImage,
    decode_stored,
    read_header,
)
from i2i_prior.data.record import Record

__all__ = ["BrokenImage", "Picture", "decode"]

# EXIF orientation -> (transposed, then mirrored left to right, mirrored top
# to bottom).
_TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
# Source pixels along a side that a scaled decoding leaves for each pixel of
# the result. At 1.5 a crop is 0.8 to 1.2 of 255 apart from one out of the
# full size (ten photographs), at 1 up to 2.5, at 2 0.5 to 0.8.
_SPARE = 1.5


class Picture:
    """An image decoded on demand; only its header is read at first.

    `height` and `width` are those of the upright image, in pixels. `max_pixels`
    limits their product, and is checked in the header before any pixel is
    decoded or allocated. BrokenImage if empty, unknown or too large.
    """

    def __init__(self, record: Record, max_pixels: int = MAX_PIXELS) -> None:
        self._data = record.data
        if isinstance(self._data, np.ndarray):
            if self._data.dtype != np.uint8 or self._data.shape[2:] != (3,):
                raise BrokenImage("is no (H, W, 3) uint8 array")
            if not self._data.size:
                raise BrokenImage("is empty")
            self._turn = _TURNS[1]
            self.height, self.width = self._data.shape[:2]
            return
        self._header = read_header(self._data, max_pixels)
        self._turn = _TURNS[self._header.orientation]
        stored = self._header.height, self._header.width
        self.height, self.width = stored[::-1] if self._turn[0] else stored

    def pixels(self) -> np.ndarray:
        """(height, width, 3) uint8, upright; see `decode`."""
        if isinstance(self._data, np.ndarray):
            return self._data
        pixels = decode_stored(self._data, self._header)
        return np.ascontiguousarray(_turned(pixels, self._turn))

    def cut(
        self, parts: Sequence[tuple[Box, Size]], exact: bool = True
    ) -> list[np.ndarray]:
        """Boxes of the image, resized after one decoding.

        A JPEG is decoded at the smallest scale that every part allows, which
        saves half of the time and changes a crop by 1 of 255 in the mean.

        `parts` are boxes of the upright image, and their sizes when resized;
        returns (height, width, 3) uint8 of each. `exact` gives the same pixels
        on every machine. Without it the edges of boxes, random ones, move to
        the nearest pixel of the decoded scale, by a third of a pixel of the
        result at most, and resizing is quick (see `resize`). BrokenImage if
        truncated or corrupt.
        """
        if isinstance(self._data, np.ndarray):
            return [resize(self._data, *part, not exact) for part in parts]
        shrink = min((_shrink(box, size) for box, size in parts), default=1)
        shrink = shrink if self._header.jpeg else 1
        pixels = decode_stored(self._data, self._header, shrink)
        return [self._part(pixels, shrink, *part, exact) for part in parts]

    def _part(
        self, pixels: np.ndarray, shrink: int, box: Box, size: Size, exact: bool
    ) -> np.ndarray:
        """One box, cut in stored orientation; only the result is turned."""
        transposed, mirrored, upended = self._turn
        left, top, right, bottom = box
        if mirrored:
            left, right = self.width - right, self.width - left
        if upended:
            top, bottom = self.height - bottom, self.height - top
        height, width = sides(size)
        if transposed:
            left, top, right, bottom = top, left, bottom, right
            height, width = width, height
        x0, y0, x1, y1 = (edge / shrink for edge in (left, top, right, bottom))
        if not exact:
            # `_shrink` has left a pixel and a half at least, so one remains.
            x0, y0, x1, y1 = map(round, (x0, y0, x1, y1))
        cut = resize(pixels, (x0, y0, x1, y1), (height, width), not exact)
        return _turned(cut, self._turn)


def decode(record: Record, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """All of a record in RGB, upright; see `Picture` and `decode_stored`.

    Returns (H, W, 3) uint8; an orientation stored behind the pixels is ignored.
    BrokenImage if empty, truncated, corrupt, unknown or too large.
    """
    return Picture(record, max_pixels).pixels()


def _turned(pixels: np.ndarray, turn: tuple[bool, bool, bool]) -> np.ndarray:
    transposed, mirrored, upended = turn
    pixels = pixels.swapaxes(0, 1) if transposed else pixels
    return pixels[:: -1 if upended else 1, :: -1 if mirrored else 1]


def _shrink(box: Box, size: Size) -> int:
    """The largest reduction by DCT that keeps a box sharp.

    Reductions other than 2, 4 and 8 are slower than none.
    """
    height, width = sides(size)
    spare = min((box[3] - box[1]) / height, (box[2] - box[0]) / width)
    return next((n for n in (8, 4, 2) if spare >= _SPARE * n), 1)
