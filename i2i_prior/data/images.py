"""Bytes to pixels, and pixels to crops: NumPy and Pillow, no randomness kept.

Every random function takes its generator, so a crop is a function of the
image and the generator's state alone. Images are (H, W, 3) uint8 RGB in
[0, 255]; a box is (left, top, right, bottom) in whole pixels, right and
bottom exclusive.
"""

from __future__ import annotations

import io
import math
import warnings
from typing import Protocol

import numpy as np
from PIL import Image

Box = tuple[int, int, int, int]

# Only these decoders run, whatever a file calls itself: Pillow would start
# Ghostscript for an EPS file that is named .jpg.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 0x0112
_MAX_TRIES = 10  # of torchvision's RandomResizedCrop
_VIEW_RATIO = (7 / 8, 8 / 7)

# `decode` has its own limit, and catch_warnings is not thread-safe.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class BrokenImage(Exception):  # noqa: N818 (an event, not a programming error)
    """An image that cannot be used; `reason` completes "the image ..."."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Encoded(Protocol):
    """What `decode` needs of a record."""

    @property
    def data(self) -> bytes | np.ndarray: ...


def decode(record: Encoded, max_pixels: int = 100_000_000) -> np.ndarray:
    """Decodes a record to RGB, upright, over white where transparent.

    The first frame of an animation is taken; grey of 16 bits is scaled to 8
    bits by 255 / 65535 and colour of 16 bits keeps its high byte; colour
    profiles are ignored.

    Args:
        record: anything with `data`: encoded bytes, or pixels that are
            already (H, W, 3) uint8 and come back as they are.
        max_pixels: limit on width times height, checked in the header
            before any pixel is decoded or allocated.

    Returns:
        (H, W, 3) uint8.

    Raises:
        BrokenImage: empty, truncated, corrupt, unknown or too large.
    """
    if isinstance(record.data, np.ndarray):
        pixels = record.data
        if pixels.dtype != np.uint8 or pixels.shape[2:] != (3,):
            raise BrokenImage("is no (H, W, 3) uint8 array")
        if not pixels.size:
            raise BrokenImage("is empty")
        return pixels
    if not record.data:
        raise BrokenImage("is empty")
    try:
        with Image.open(io.BytesIO(record.data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height <= max_pixels:
                image.load()
                return np.array(_upright(image, _to_rgb(image)))
    except Image.DecompressionBombError:
        raise BrokenImage(f"has more than {max_pixels} pixels") from None
    except Image.UnidentifiedImageError:
        raise BrokenImage("is no image of a known format") from None
    except MemoryError:
        raise
    except Exception as error:
        # Pillow's decoders raise nearly everything on hostile bytes: OSError,
        # SyntaxError, ValueError, struct.error, zlib.error, IndexError ...
        raise BrokenImage(f"cannot be decoded ({error})") from error
    raise BrokenImage(f"has more than {max_pixels} pixels")


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB; transparency is laid over white."""
    if image.mode.startswith("I"):
        # Grey of 16 bits; convert() would clip it to 255 instead of scaling.
        grey = np.asarray(image).astype(np.float64) / 257.0
        grey = np.rint(np.clip(grey, 0, 255)).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La"):
        colour = image.convert("RGBA")
        white = Image.new("RGBA", colour.size, "white")
        return Image.alpha_composite(white, colour).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _upright(image: Image.Image, pixels: Image.Image) -> Image.Image:
    """Turns `pixels` as the EXIF orientation of `image` asks."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
        method = _TRANSPOSE.get(orientation)
    except Exception:
        method = None  # damaged EXIF does not make the pixels worse
    return pixels if method is None else pixels.transpose(method)


def resize(image: np.ndarray, box: Box, size: int) -> np.ndarray:
    """Cuts `box` out and resizes it to (size, size, 3), antialiased bicubic.

    The cut comes first: no pixel outside of the box has a part in it.
    """
    left, top, right, bottom = box
    # Box-averaging down to three times the size costs nothing visible, and
    # makes a large reduction several times faster.
    return np.asarray(
        Image.fromarray(image[top:bottom, left:right]).resize(
            (size, size), Image.Resampling.BICUBIC, reducing_gap=3.0
        )
    )


def random_resized_crop(
    image: np.ndarray,
    size: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.25, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    min_side: int = 0,
) -> tuple[np.ndarray, Box]:
    """A random box of the image, resized to a square.

    The box follows torchvision's RandomResizedCrop: area uniform in
    `scale` times the image's area, log aspect ratio uniform, place uniform;
    after ten boxes that do not fit, the largest central one.

    Args:
        image: (H, W, 3) uint8.
        size: side of the crop in pixels.
        rng: advanced by a number of draws that depends on the image's size.
        scale: least and greatest share of the image's area.
        ratio: least and greatest width / height of the box.
        min_side: least H and W; 0 allows any image to be scaled up.

    Returns:
        The crop (size, size, 3) uint8, and its box in the image.

    Raises:
        BrokenImage: H or W is below `min_side`.
    """
    _check_side(image, min_side)
    height, width = image.shape[:2]
    box = _random_box(height, width, rng, scale, ratio)
    return resize(image, box, size), box


def center_crop(image: np.ndarray, size: int, min_side: int = 0) -> np.ndarray:
    """The central square resized to (size, size, 3) uint8.

    What ADM and DiT do: to half a source pixel the same as resizing the
    shorter side to `size` and then cutting the centre, but bounded in memory
    for an image of any shape.

    Raises:
        BrokenImage: H or W is below `min_side`.
    """
    _check_side(image, min_side)
    return resize(image, center_box(*image.shape[:2]), size)


def center_box(height: int, width: int) -> Box:
    """The largest central square of an image."""
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def flip(image: np.ndarray) -> np.ndarray:
    """Mirrors (H, W, C) left to right."""
    return image[:, ::-1]


def view(
    image: np.ndarray,
    box: Box,
    size: int,
    rng: np.random.Generator,
    min_scale: float = 1.0,
    flip_probability: float = 0.0,
    jitter: float = 0.0,
) -> np.ndarray:
    """A second, augmented look at the target's box, for the image encoder.

    Args:
        image: (H, W, 3) uint8, the image that the target was cut from.
        box: the target's box in it.
        size: side of the view in pixels.
        rng: draws sub-crop, flip and jitter, in this order.
        min_scale: the sub-crop's area is uniform in [min_scale, 1] of the
            box's, its aspect within 8/7 of the box's; 1 takes the whole box.
        flip_probability: of a mirrored view.
        jitter: brightness, contrast and saturation are each multiplied by a
            factor uniform in [1 - jitter, 1 + jitter]; 0 changes nothing.

    Returns:
        (size, size, 3) uint8.
    """
    left, top, right, bottom = box
    if min_scale < 1.0:
        aspect = (right - left) / (bottom - top)
        x0, y0, x1, y1 = _random_box(
            bottom - top,
            right - left,
            rng,
            (min_scale, 1.0),
            (aspect * _VIEW_RATIO[0], aspect * _VIEW_RATIO[1]),
        )
        box = left + x0, top + y0, left + x1, top + y1
    result = resize(image, box, size)
    if rng.random() < flip_probability:
        result = flip(result)
    if jitter > 0:
        result = _jitter(result, rng.uniform(1 - jitter, 1 + jitter, 3))
    return result


def _check_side(image: np.ndarray, min_side: int) -> None:
    if min(image.shape[:2]) < min_side:
        raise BrokenImage("is smaller than the crop")


def _random_box(
    height: int,
    width: int,
    rng: np.random.Generator,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Box:
    """torchvision's sampling rule: see `random_resized_crop`."""
    log_ratio = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(_MAX_TRIES):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(*log_ratio))
        w = round(math.sqrt(area * aspect))
        h = round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(rng.integers(height - h + 1))
            left = int(rng.integers(width - w + 1))
            return left, top, left + w, top + h
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _jitter(image: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Scales brightness, contrast and saturation of (H, W, 3) uint8."""
    brightness, contrast, saturation = factors.astype(np.float32)
    pixels = image.astype(np.float32) * brightness
    luma = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
    mean = (pixels @ luma).mean()
    pixels = mean + contrast * (pixels - mean)
    grey = (pixels @ luma)[..., None]
    pixels = grey + saturation * (pixels - grey)
    return np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)
