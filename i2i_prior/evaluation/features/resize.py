"""Resizing of images to the input size of a network, by protocol.

The two bilinear rules mix two pixels along each axis and do not antialias, so
shrinking drops pixels, as in the published numbers. They are written once for
NumPy and JAX, so that they may run inside a compiled program, where only uint8
has to reach the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.presets import Preset, find_preset


def resize(
    images: np.ndarray, preset: str | Preset, size: int = 299
) -> np.ndarray:
    """Resizes images as the preset's tool does.

    Args:
      images: uint8 (N, H, W, 3).
      preset: a name of `PRESETS`, or a preset.
      size: side of the result.

    Returns:
      float32 (N, size, size, 3), 0..255, not rounded.

    Raises:
      UserError: for other images, an unknown preset, or a size below 1.
    """
    rule = find_preset(preset).resize
    images = check_images(images)
    if size < 1:
        raise UserError(f"images cannot be resized to {size}; give 1 or more.")
    if rule == "pil_bicubic":
        return pil_bicubic(images, size)
    return bilinear(images, size, rule)


def check_images(images: np.ndarray) -> np.ndarray:
    """Checks that an array is uint8 (N, H, W, 3) with N, H, W >= 1.

    Raises:
      UserError: where it is not.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise UserError(
            "images are uint8 (N, H, W, 3), one or more, not "
            f"{images.dtype} of shape {images.shape}."
        )
    if images.shape[-1] != 3:
        raise UserError(
            f"images need 3 colour channels, not {images.shape[-1]}; convert "
            "greyscale and transparent ones to RGB."
        )
    return images


def bilinear(images: Any, size: int, rule: str) -> Any:
    """Resizes by "tf1_bilinear" or "torch_bilinear", in NumPy or JAX.

    Args:
      images: (N, H, W, C), of any dtype; the library is that of the array.
      size: side of the result.
      rule: see `Preset.resize`.

    Returns:
      float32 (N, size, size, C).
    """
    low, high, share = _taps(size, images.shape[1], rule)
    mixed = _mix(images[:, low], images[:, high], share[:, None, None])
    low, high, share = _taps(size, images.shape[2], rule)
    return _mix(mixed[:, :, low], mixed[:, :, high], share[:, None])


def _mix(low: Any, high: Any, share: np.ndarray) -> Any:
    low = low.astype(np.float32)
    return low + (high.astype(np.float32) - low) * share


def _taps(
    outputs: int, inputs: int, rule: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two inputs of each output, and the share of the second, float32.

    Steps and positions are rounded to float32 as in the libraries: after 400
    pixels the last digit is 0.01 of a noisy image's levels.
    """
    step = np.float32(inputs / outputs)
    rows = np.arange(outputs, dtype=np.float32)
    if rule == "tf1_bilinear":
        position = rows * step
    else:  # one rounding: torch multiplies and subtracts in one operation
        exact = (rows + 0.5).astype(np.float64) * np.float64(step) - 0.5
        position = np.maximum(exact, 0).astype(np.float32)
    low = np.minimum(position.astype(np.int32), inputs - 1)
    high = np.minimum(low + 1, inputs - 1)
    return low, high, position - low.astype(np.float32)


def pil_bicubic(images: np.ndarray, size: int) -> np.ndarray:
    """Resizes by Pillow's antialiased bicubic filter, in float32, clipped.

    Args:
      images: uint8 (N, H, W, C).
      size: side of the result.

    Returns:
      float32 (N, size, size, C), 0..255.
    """
    count, _, _, channels = images.shape
    found = np.empty((count, size, size, channels), np.float32)
    for row in range(count):
        for channel in range(channels):
            plane = Image.fromarray(
                images[row, :, :, channel].astype(np.float32)
            )
            filtered = plane.resize((size, size), Image.Resampling.BICUBIC)
            found[row, :, :, channel] = np.asarray(filtered)
    return np.clip(found, 0, 255, out=found)
