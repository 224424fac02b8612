"""Published protocols of FID, each a frozen record.

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

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from i2i_prior.errors import UserError


@dataclass(frozen=True)
class Preset:
    """Protocol of FID and its relatives.

    Attributes:
      name: its key in `PRESETS`.
      resize: to the network's input. "tf1_bilinear": corners of pixels
        aligned, x_in = x_out * in / out, no antialias. "torch_bilinear":
        centres aligned, no antialias. "pil_bicubic": Pillow's, antialiased,
        in float32 without rounding, clipped to 0..255.
      pixels: "(x - 128) / 128" or "2x / 255 - 1", x in 0..255.
      rounding: samples in [-1, 1] to uint8; "truncate": 127.5 (x + 1) cut
        off, half a level darker; "round": 127.5 x + 128 cut off.
      accumulation: of mean and covariance.
      ddof: the covariance is divided by n - ddof.
      inception_score: "consecutive", ten splits in the order of the samples,
        or "shuffled", the same after RandomState(2020); both over logits
        without bias.
      spatial: features of sFID, and the order of their numbers.
      precision_recall_k: neighbours of precision and recall.
    """

    name: str
    resize: Literal["tf1_bilinear", "torch_bilinear", "pil_bicubic"]
    pixels: Literal["(x - 128) / 128", "2x / 255 - 1"]
    rounding: Literal["truncate", "round"]
    inception_score: Literal["consecutive", "shuffled"]
    accumulation: str = "float64"
    ddof: int = 1
    spatial: str = "Mixed_6d.branch1x1[:7], order (h, w, c)"
    precision_recall_k: int = 3

    def record(self) -> dict[str, Any]:
        """Record as JSON values; equal for equal presets."""
        return asdict(self)

    def to_uint8(self, x: np.ndarray) -> np.ndarray:
        """Converts samples, float in [-1, 1], to uint8 by `rounding`.

        Beyond the range they are clipped first.

        Raises:
          UserError: for NaN, which would become some grey level.
        """
        x = np.asarray(x, np.float32)
        if np.isnan(x).any():
            raise UserError(
                "the samples hold NaN; look at the checkpoint and the "
                "precision they were drawn with."
            )
        shift = 127.5 if self.rounding == "truncate" else 128.0
        return np.clip(x * 127.5 + shift, 0, 255).astype(np.uint8)

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


def find_preset(preset: str | Preset) -> Preset:
    """Finds a preset by its name; a `Preset` is returned as it is.

    Raises:
      UserError: for an unknown name.
    """
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise UserError(
            f"there is no preset '{preset}'; use one of {', '.join(PRESETS)}."
        )
    return PRESETS[preset]
