"""Pixels as each published encoder was shown them.

Resizing is Pillow's, on 8-bit RGB, as torchvision and transformers do it on
the host. `normalise` is the part that can run on a device.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

from i2i_prior.errors import UserError
from i2i_prior.models.precision import Array

Triple = tuple[float, float, float]
Statistics = tuple[Triple, Triple]

IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP: Statistics = (
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)
HALF: Statistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

# How many times as long as wide an image is resized in full.
_LINE = 16


@dataclass(frozen=True)
class Preprocessing:
    """Steps from an image of any size to a normalised square."""

    statistics: Statistics = IMAGENET  # mean and std of RGB in [0, 1]
    # Of the resize, "bilinear" or "bicubic"; Pillow's, so it averages when
    # shrinking
    filter: str = "bilinear"
    size: int = 0  # side S of the square; 0 for the encoder's own image size
    # S over what the shorter side is resized to before the central S x S is cut
    # out; 0 resizes to S x S and distorts
    crop_share: float = 0.0
    # The crop's corner is rounded half to even, as torchvision does, not down,
    # as transformers does
    torchvision: bool = False


_EVALUATION = Preprocessing(filter="bicubic", crop_share=224 / 256)
# A family's own, and under further names what else was published for it.
PREPROCESSING: dict[str, Preprocessing] = {
    # Lumos: Resize(224), torchvision's bilinear default, CenterCrop(224).
    "dino": Preprocessing(crop_share=1.0, torchvision=True),
    # The official k-NN and linear evaluation: Resize(256, bicubic).
    "dino_eval": replace(_EVALUATION, torchvision=True),
    "dino_hf": Preprocessing(),
    "dinov2": replace(_EVALUATION, size=224),
    "dinov2_hub": replace(_EVALUATION, size=224, torchvision=True),
    "clip": Preprocessing(CLIP, "bicubic", crop_share=1.0),
    "openclip": Preprocessing(CLIP, "bicubic", crop_share=1.0),
    "siglip": Preprocessing(HALF, "bicubic"),
    "siglip2": Preprocessing(HALF, "bilinear"),
    "mae": Preprocessing(),  # of the transformers checkpoints
    "mae_eval": replace(_EVALUATION, torchvision=True),  # official
    # Trained with ImageNet statistics (official code); the transformers
    # checkpoints say 0.5 instead.
    "ijepa": Preprocessing(),
    "ijepa_hf": Preprocessing(HALF),
}


def preprocess(
    images: Sequence[np.ndarray], record: Preprocessing, size: int = 0
) -> np.ndarray:
    """Images as the encoder reads them.

    Each image is uint8 (H, W, 3) RGB, of any size; the record is one of
    `PREPROCESSING`. Returns float32 (B, S, S, 3), where S is `size`, or the
    record's own if that is 0. UserError for no images, for another dtype or
    shape, and where neither gives a size.
    """
    side = size or record.size
    if side < 1 or not len(images):
        raise UserError(
            f"preprocess needs an image or more and a size, not {len(images)} "
            f"images and size {side}"
        )
    squares = np.stack([square(image, record, side) for image in images])
    mean, std = (np.asarray(v, np.float32) for v in record.statistics)
    return (squares.astype(np.float32) / 255 - mean) / std


def normalise(images: Any, family: str) -> Array:
    """RGB in [0, 1] (..., 3) -> (image - mean) / std of the family, float32;
    UserError for a name that `PREPROCESSING` lacks."""
    if family not in PREPROCESSING:
        raise UserError(
            f"no mean and std are known for {family!r}; choose one of "
            f"{', '.join(PREPROCESSING)}"
        )
    statistics = PREPROCESSING[family].statistics
    mean, std = (jnp.asarray(v, jnp.float32) for v in statistics)
    return (jnp.asarray(images, jnp.float32) - mean) / std


def square(image: np.ndarray, record: Preprocessing, side: int) -> np.ndarray:
    """The record's square of one image, uint8 (side, side, 3); UserError for
    another dtype or shape than uint8 (H, W, 3)."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(
            f"an image array is uint8 (H, W, 3), not {image.dtype} "
            f"{image.shape}"
        )
    target = (side, side)
    if record.crop_share:
        image = _middle(image)
        height, width = image.shape[:2]
        short = round(side / record.crop_share)
        # Both libraries cut the longer side down to whole pixels.
        long = int(short * max(height, width) / min(height, width))
        target = (long, short) if height > width else (short, long)
    resized = np.asarray(
        Image.fromarray(image).resize(target[::-1], _FILTERS[record.filter])
    )
    top, left = (_corner(n - side, record.torchvision) for n in target)
    return resized[top : top + side, left : left + side]


def _middle(image: np.ndarray) -> np.ndarray:
    """Visible part of a line, around its centre.

    Resized in full, one of 1 x 30000 pixels would fill the memory.
    """
    height, width = image.shape[:2]
    most = _LINE * min(height, width)
    # By whole pixels on both sides, so that the centre stays.
    down, right = (max(0, (n - most) // 2) for n in (height, width))
    return image[down : height - down, right : width - right]


def _corner(spare: int, torchvision: bool) -> int:
    # Python's round() takes halves to the even number.
    return round(spare / 2) if torchvision else spare // 2
