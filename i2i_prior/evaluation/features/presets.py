"""Published protocols of FID: resizing, scaling, and how each is recorded.

Two FIDs compare only where everything in these records is equal: the resizing
of images to 299 x 299 alone moves FID by 0.5 to 15 % (Parmar et al., "On
Aliased Resizing and Surprising Subtleties in GAN Evaluation", CVPR 2022). A
record is part of every result and every statistics file.

    adm          the TensorFlow evaluator of Dhariwal and Nichol (2021), that
                 of ImageNet FIDs in papers, and torch-fidelity's
    edm2         the same features; samples are rounded, not cut (Karras et
                 al. 2024, and DiT, SiT)
    pytorch_fid  Seitzer's pytorch-fid
    clean        clean-fid, Parmar et al. 2022

The tools' own loss of digits (several take the mean in float32, which moves
FID by 1e-6 at 50,000 images) is not reproduced: sums are float64 in all four.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from PIL import Image

from i2i_prior.errors import UserError


@dataclass(frozen=True)
class Preset:
    """Protocol of FID and its relatives."""

    name: str
    # To the network's input. tf1: corners of pixels aligned, x_in = x_out *
    # in / out; torch: centres aligned; neither antialiased. PIL: antialiased,
    # in float32 without rounding, clipped to 0..255.
    resize: Literal["tf1_bilinear", "torch_bilinear", "pil_bicubic"]
    pixels: Literal["(x - 128) / 128", "2x / 255 - 1"]  # of x in 0..255
    # Samples in [-1, 1] to uint8: 127.5 (x + 1) cut off, half a level darker,
    # or 127.5 x + 128 cut off.
    rounding: Literal["truncate", "round"]
    # Ten splits, in the order of the samples or after RandomState(2020), over
    # logits without bias.
    inception_score: Literal["consecutive", "shuffled"]
    accumulation: str = "float64"  # of mean and covariance
    ddof: int = 1  # the covariance is divided by n - ddof
    # Features of sFID, and the order of their numbers.
    spatial: str = "Mixed_6d.branch1x1[:7], order (h, w, c)"
    precision_recall_k: int = 3  # neighbours

    def normalise(self, x: Any) -> Any:
        """Scales pixels in 0..255, NumPy or JAX, to the network's range."""
        if self.pixels == "(x - 128) / 128":
            return (x - 128) / 128
        return 2 * (x / 255) - 1


# The rounding of samples and the use of the features do not change the
# statistics of given images.
_OF_STATISTICS = ("resize", "pixels", "accumulation", "ddof", "spatial")


def of_statistics(record: Mapping[str, Any]) -> dict[str, Any]:
    """Part of a preset's record that changes statistics of uint8 images.

    It is equal for "adm" and "edm2", so a reference of one serves the other.
    """
    return {name: record.get(name) for name in _OF_STATISTICS}


_ALL = (
    Preset("adm", "tf1_bilinear", "(x - 128) / 128", "truncate", "consecutive"),
    Preset("edm2", "tf1_bilinear", "(x - 128) / 128", "round", "consecutive"),
    Preset(
        "pytorch_fid", "torch_bilinear", "2x / 255 - 1", "round", "shuffled"
    ),
    Preset("clean", "pil_bicubic", "(x - 128) / 128", "round", "shuffled"),
)
PRESETS: Mapping[str, Preset] = MappingProxyType({p.name: p for p in _ALL})


def find_preset(name: str) -> Preset:
    """Finds a preset; UserError for an unknown name."""
    if name not in PRESETS:
        raise UserError(
            f"there is no preset '{name}'; use one of {', '.join(PRESETS)}."
        )
    return PRESETS[name]


def bilinear(images: Any, size: int, rule: str) -> Any:
    """Resizes by "tf1_bilinear" or "torch_bilinear", see `Preset.resize`.

    They mix two pixels along each axis and do not antialias, so shrinking
    drops pixels, as in the published numbers. Written once for NumPy and JAX,
    so that only uint8 has to reach the device: (N, H, W, C) of any dtype and
    either library to float32 (N, size, size, C).
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

    uint8 (N, H, W, C) -> float32 (N, size, size, C), 0..255.
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
