"""Image features that need no training, computed from pixels.

FEATURES holds two sets, both callables from uint8 (N, H, W, 3) to float32
(N, d). Others are Python functions: `load_features("mine.py:clip")`.

**thumbnails** (d = 320, "thumb8+hog"): layout.
    0..191    the image averaged over an 8 x 8 grid of equal areas (which is
              antialiased by itself), RGB / 255, order (row, column, channel).
    192..319  gradient-orientation histograms: luminance at 64 x 64, 4 x 4
              cells x 8 unsigned orientations over 180 degrees, order (row,
              column, bin), each pixel's gradient length shared linearly
              between the two nearest bins. The 128 numbers together are
              scaled to length HOG_WEIGHT (a flat image keeps zeros), so the
              overall contrast does not count. After Dalal and Triggs,
              "Histograms of Oriented Gradients for Human Detection", 2005,
              with one block, the whole image.

**colour_texture** (d = 32): colours and textures, at any place. Few enough
numbers for a Frechet distance over some 256 images.
    0..2    COLOUR_WEIGHT x mean of R, G, B, each / 255
    3..5    COLOUR_WEIGHT x standard deviation of R, G, B over the image
    6..7    the same of the opponent colours R - G, (R + G) / 2 - B
    8..15   log(1e-3 + mean gradient length) in each of 8 orientations, at 64
    16..23  the same at 32 x 32
    24..31  log(1e-8 + mean power) / 2 in 8 rings of the 64 x 64 luminance minus
            its mean under a Hann window; ring edges 0.9 * 36^(i/8) cycles per
            image, i = 0..8, so from one cycle to Nyquist in equal ratios.

Luminance is 0.299 R + 0.587 G + 0.114 B of the stored (gamma) values / 255.
"At 64" means area-averaged to 64 x 64 whatever the size and shape of the
image (smaller ones repeat pixels): compare images of one size.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.io.python_files import running

# Chosen so that no part has nearly all of the variance over photographs:
# about 10 : 5 (thumbnail : gradients), 2 : 3 : 2 (colour : edges : rings).
HOG_WEIGHT = 4.0
COLOUR_WEIGHT = 5.0
ORIENTATIONS = 8
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
_CHUNK = 64  # images at once: 64 of 256 x 256 are 50 MB as float32


@dataclass(frozen=True)
class Features:
    """Named feature function, uint8 (N, H, W, 3) -> float (N, d)."""

    name: str  # in results
    short: str  # in the names of metrics
    function: Callable[[np.ndarray], np.ndarray]  # of at most 64 images
    parts: tuple[int, ...] = ()  # blocks of equal weight in retrieval

    @property
    def label(self) -> str:
        """Name of the Frechet distance: never FID, see `inception_weights`."""
        return f"FD-{self.short}"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Features (N, d); UserError where the function returns others."""
        found = [
            np.asarray(self.function(images[start : start + _CHUNK]))
            for start in range(0, len(images), _CHUNK)
        ]
        if any(part.ndim != 2 for part in found):
            raise UserError(
                f"features '{self.name}' returned shape {found[0].shape}; "
                "the function must return an array (N, d)."
            )
        features = np.concatenate(found)
        if len(features) != len(images):
            raise UserError(
                f"features '{self.name}' returned {len(features)} rows for "
                f"{len(images)} images; the function must return (N, d)."
            )
        return features


def load_features(spec: str) -> Features:
    """Loads features by a key of FEATURES, or as `FILE.py:function`.

    The function of a file takes uint8 (n, H, W, 3), at most 64 images a call,
    and returns (n, d). Its name is recorded with 8 digits of the file's
    SHA-256, which identify its version. The file is run: only name one that
    you trust.
    """
    if spec in FEATURES:
        return FEATURES[spec]
    file_name, separator, function_name = spec.rpartition(":")
    if not separator or not file_name.endswith(".py"):
        raise UserError(
            f"there are no features '{spec}'; use one of "
            f"{', '.join(FEATURES)}, or FILE.py:function."
        )
    path = Path(file_name)
    if not path.is_file():
        raise UserError(f"there is no features file {path}.")
    with running("features file", path) as module:
        function = getattr(module, function_name, None)
    if not callable(function):
        raise UserError(f"{path} has no function '{function_name}'.")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    short = f"{path.name}:{function_name}"
    return Features(f"{short}@{digest}", short, function)


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Layout features, uint8 (N, H, W, 3) -> float32 (N, 320); see above."""
    pixels = images.astype(np.float32) / 255.0
    small = area_resize(pixels, 8).reshape(len(images), -1)
    energies = orientation_energies(area_resize(pixels @ _LUMINANCE, 64))
    cells = area_resize(energies, 4).reshape(len(images), -1)
    # 1e-3 is far below the gradients of any picture, above their rounding
    length = np.sqrt((cells**2).sum(-1, keepdims=True) + 1e-6)
    return np.concatenate([small, HOG_WEIGHT * cells / length], axis=-1)


def colour_texture(images: np.ndarray) -> np.ndarray:
    """Colour and texture, uint8 (N, H, W, 3) -> float32 (N, 32); see above."""
    pixels = images.astype(np.float32) / 255.0
    red, green, blue = np.moveaxis(pixels, -1, 0)
    opponents = np.stack([red - green, (red + green) / 2 - blue], axis=-1)
    luminance = area_resize(pixels @ _LUMINANCE, 64)
    energies = [
        np.log(1e-3 + orientation_energies(grey).mean(axis=(1, 2)))
        for grey in (luminance, area_resize(luminance, 32))
    ]
    colours = [
        # float32 sums over 65536 pixels lose digits
        pixels.mean(axis=(1, 2), dtype=np.float64),
        pixels.std(axis=(1, 2), dtype=np.float64),
        opponents.std(axis=(1, 2), dtype=np.float64),
    ]
    weighted = [COLOUR_WEIGHT * colour for colour in colours]
    parts = [*weighted, *energies, _ring_powers(luminance)]
    return np.concatenate(parts, axis=-1).astype(np.float32)


def area_resize(images: np.ndarray, size: int) -> np.ndarray:
    """Area averages of (N, H, W[, C]) float, (N, size, size[, C]).

    Every output pixel is the mean over its share of the image, fractions of
    pixels weighted by their overlap; a smaller image repeats its pixels.
    """
    rows = _overlaps(size, images.shape[1])
    columns = _overlaps(size, images.shape[2])
    resized = np.tensordot(images, rows, axes=(1, 1))
    resized = np.tensordot(resized, columns, axes=(1, 1))
    return np.moveaxis(resized, (-2, -1), (1, 2))


def orientation_energies(luminance: np.ndarray) -> np.ndarray:
    """Gradient length by unsigned orientation, (N, H, W) -> (N, H, W, 8).

    Bin i is centred on i * 22.5 degrees of the gradient's direction (0 = left
    to right, that is, a vertical edge); a length is shared between the two
    nearest bins in proportion to nearness.
    """
    down, right = np.gradient(luminance, axis=(1, 2))
    length = np.hypot(down, right)
    position = np.arctan2(down, right) / np.pi * ORIENTATIONS
    bins = np.arange(ORIENTATIONS, dtype=np.float32)
    offset = (position[..., None] - bins) % ORIENTATIONS
    nearness = 1.0 - np.minimum(offset, ORIENTATIONS - offset)
    return length[..., None] * np.clip(nearness, 0.0, None)


def _overlaps(outputs: int, inputs: int) -> np.ndarray:
    """Averaging weights, float32 (outputs, inputs), with rows of sum 1."""
    edges = np.arange(outputs + 1) * (inputs / outputs)
    starts = np.arange(inputs)
    upper = np.minimum(edges[1:, None], starts + 1)
    lower = np.maximum(edges[:-1, None], starts)
    weights = np.clip(upper - lower, 0.0, None) * (outputs / inputs)
    return weights.astype(np.float32)


def _ring_powers(luminance: np.ndarray) -> np.ndarray:
    """Half the log mean power in rings of equal ratio, (N, S, S) -> (N, 8)."""
    size = luminance.shape[1]
    window = np.hanning(size + 1)[:-1].astype(np.float32)
    centred = luminance - luminance.mean(axis=(1, 2), keepdims=True)
    spectrum = np.fft.rfft2(centred * window[:, None] * window)
    power = np.abs(spectrum) ** 2 / size**2
    down = np.fft.fftfreq(size, 1.0 / size)[:, None]
    right = np.fft.rfftfreq(size, 1.0 / size)
    radius = np.hypot(down, right)
    edges = 0.9 * 36.0 ** (np.arange(9) / 8)
    rings = [
        power[:, (radius >= low) & (radius < high)].mean(axis=1)
        for low, high in pairwise(edges)
    ]
    return np.log(1e-8 + np.stack(rings, axis=-1)) / 2


FEATURES: dict[str, Features] = {
    "thumbnails": Features(
        "thumbnails", "thumb8hog", thumbnails, parts=(192, 128)
    ),
    "colour_texture": Features(
        "colour_texture", "colourtexture", colour_texture, parts=(8, 16, 8)
    ),
}
