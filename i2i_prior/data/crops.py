"""Boxes of images, and pixels resized out of them.

A random box is a function of the image's size and the generator's state
alone. Images are (H, W, 3) uint8 RGB in [0, 255]; a box is (left, top, right,
bottom) in pixels, right and bottom exclusive.
"""

import math

import numpy as np
from PIL import Image

try:
    import cv2

    # The pipeline's own threads use all cores.
    cv2.setNumThreads(0)
except ImportError:
    cv2 = None  # type: ignore[assignment]

Box = tuple[int, int, int, int]
Size = int | tuple[int, int]  # side of a square, or height and width

_MAX_TRIES = 10  # of torchvision's RandomResizedCrop
_VIEW_RATIO = (7 / 8, 8 / 7)
# Pillow's box-averaging down to three times the size is not visible.
_GAP = 3.0
# OpenCV's cubic is not antialiased, and sharper than Pillow's (a = -0.75, not
# -0.5). A Gaussian before it corrects both; with this width, in pixels of the
# source a reduction, the result is nearest to Pillow's on photographs.
_BLUR = 0.36
_MOST_REDUCED = 3.0  # more needs more taps


def resize(
    image: np.ndarray,
    box: tuple[float, float, float, float],
    size: Size,
    quick: bool = False,
) -> np.ndarray:
    """Cuts `box` out and resizes it, antialiased bicubic.

    The cut comes first: pixels wholly outside the box do not contribute. Its
    edges are whole numbers, or fractions of a pixel.

    With `quick` OpenCV is used, in a fifth of the time, for boxes of whole
    pixels and of at most three times the size; its pixels are 0.2 to 0.7 of 255
    apart from Pillow's in the mean of photographs. Returns (height, width, 3)
    uint8.
    """
    height, width = sides(size)
    left, top, right, bottom = box
    x, y = math.floor(left), math.floor(top)
    cut = image[y : math.ceil(bottom), x : math.ceil(right)]
    whole = (right - left, bottom - top) == cut.shape[1::-1]
    reductions = cut.shape[1] / width, cut.shape[0] / height
    if quick and whole and cv2 is not None and max(reductions) <= _MOST_REDUCED:
        return _resize_quick(cut, (width, height), reductions)
    return np.asarray(
        Image.fromarray(cut).resize(
            (width, height),
            Image.Resampling.BICUBIC,
            box=(left - x, top - y, right - x, bottom - y),
            reducing_gap=_GAP,
        )
    )


def _resize_quick(
    cut: np.ndarray, size: tuple[int, int], reductions: tuple[float, float]
) -> np.ndarray:
    """OpenCV's cubic resize after a low pass; sizes are (width, height)."""
    if cut.shape[1::-1] == size:
        return np.ascontiguousarray(cut)
    across, down = (
        cv2.getGaussianKernel(5 if each > 2 else 3, _BLUR * max(1.0, each))
        for each in reductions
    )
    # A third faster than GaussianBlur with the same.
    smooth = cv2.sepFilter2D(
        cut, -1, across, down, borderType=cv2.BORDER_REPLICATE
    )
    return cv2.resize(smooth, size, interpolation=cv2.INTER_CUBIC)


def sides(size: Size) -> tuple[int, int]:
    """Height and width of a `Size`."""
    return (size, size) if isinstance(size, int) else size


def random_box(
    height: int,
    width: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.25, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """A random box of an image, as torchvision's RandomResizedCrop.

    Area uniform in `scale`, shares of the image's area; log of width / height
    uniform between those of `ratio`; place uniform. After ten boxes that do not
    fit, the largest central one. The number of draws from `rng` depends on the
    image's size.
    """
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
    return _center_box(height, width, ratio)


def view_box(box: Box, rng: np.random.Generator, min_scale: float) -> Box:
    """A random box inside the target's box, for a second view.

    Its area is uniform in [min_scale, 1] of the box's, its aspect within 8/7 of
    the box's. With `min_scale` 1 it is the whole box, and `rng` is not used.
    """
    if min_scale >= 1.0:
        return box
    left, top, right, bottom = box
    aspect = (right - left) / (bottom - top)
    ratio = aspect * _VIEW_RATIO[0], aspect * _VIEW_RATIO[1]
    x0, y0, x1, y1 = random_box(
        bottom - top, right - left, rng, (min_scale, 1.0), ratio
    )
    return left + x0, top + y0, left + x1, top + y1


def center_box(height: int, width: int, aspect: float = 1.0) -> Box:
    """The largest central box of width / height `aspect`."""
    return _center_box(height, width, (aspect, aspect))


def _center_box(height: int, width: int, ratio: tuple[float, float]) -> Box:
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The central square resized to (size, size, 3) uint8.

    Within half a source pixel of ADM's and DiT's crop, which resizes the
    shorter side to `size` and then cuts the centre, but bounded in memory for
    an image of any shape.
    """
    return resize(image, center_box(*image.shape[:2]), size)


def flip(image: np.ndarray) -> np.ndarray:
    """Mirrors (H, W, 3) uint8 left to right."""
    if cv2 is None:
        return image[:, ::-1]
    # NumPy would copy the mirrored view pixel by pixel, 15 times slower.
    return cv2.flip(image, 1)


def jitter(image: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Changes brightness, contrast and saturation of (H, W, 3) uint8 by
    `factors`, (3,), of which 1 changes nothing."""
    brightness, contrast, saturation = factors.astype(np.float32)
    pixels = image.astype(np.float32) * brightness
    luma = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
    mean = (pixels @ luma).mean()
    pixels = mean + contrast * (pixels - mean)
    grey = (pixels @ luma)[..., None]
    pixels = grey + saturation * (pixels - grey)
    return np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)
