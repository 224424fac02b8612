"""Inception's weights: published files, our own file, and their identity.

There is one published file, ported from TensorFlow's by both pytorch-fid and
torch-fidelity; its SHA-256 begins with `PUBLISHED`. A distance over its
features is FID. Other weights of the same shapes work as well, for tests and
studies, but their distance is called "FD-inception:" and the first digits of
their own SHA-256.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.extractor import Extractor
from i2i_prior.evaluation.features.inception_layout import (
    published_names,
    published_shapes,
)
from i2i_prior.evaluation.features.presets import (
    Preset,
    bilinear,
    find_preset,
    pil_bicubic,
)
from i2i_prior.interop.files.hashing import hash_of
from i2i_prior.interop.files.lazy_tensor import LazyTensor, one_line
from i2i_prior.interop.files.state_dicts import (
    StateDict,
    read_state_dict,
    write_state_dict,
)
from i2i_prior.io.files import user_cache

PUBLISHED = "6726825d"
URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
COMMAND = "i2i-prior weights inception --from FILE|URL"
_FORMAT = "i2i-prior inception 1"
_CODE = 1  # goes up when any feature changes


@dataclass(frozen=True)
class InceptionWeights:
    """Arrays of the network and their origin."""

    # Published key -> float32 in torch's layout; without `fc` for
    # pytorch-fid's outer module.
    state: Mapping[str, np.ndarray] = field(repr=False)
    sha256: str  # of the arrays, 64 hex digits, whatever their file
    file_sha256: str  # of the file that they were first read from

    @property
    def published(self) -> bool:
        """True where the file was the published one."""
        return self.file_sha256.startswith(PUBLISHED)

    @property
    def label(self) -> str:
        """Name of the Frechet distance over pool3."""
        return "FID" if self.published else f"FD-inception:{self.sha256[:8]}"


def load_inception(
    path: str | Path | None = None,
    preset: str = "adm",
    taps: Sequence[str] = ("pool3",),
) -> Extractor:
    """Loads Inception-v3 under one protocol, for images of any size.

    Each size is compiled anew, but for the preset `clean`, which resizes on
    the host. UserError where the weights are missing or unusable, or the
    preset is unknown.

    Args:
      path: see `read_inception`; None for the file of `i2i-prior weights`.
      preset: a key of `PRESETS`.
      taps: of `inception.TAPS`, pool3 first; layers of other taps only are
        not computed.
    """
    protocol = find_preset(preset)
    weights = read_inception(path or stored_file())
    return inception_extractor(weights, protocol, taps)


def inception_extractor(
    weights: InceptionWeights, preset: Preset, taps: Sequence[str]
) -> Extractor:
    """Extractor of weights in memory, see `load_inception`."""
    from i2i_prior.evaluation.features import inception

    logits = [tap for tap in taps if tap.startswith("logits")]
    if logits and "fc.weight" not in weights.state:
        raise UserError(
            f"{logits[0]} needs the last layer, fc, which these weights lack; "
            f"take the published file ({COMMAND})."
        )
    on_host = preset.resize == "pil_bicubic"

    def prepare(images: np.ndarray) -> np.ndarray:
        return pil_bicubic(images, inception.SIZE) if on_host else images

    def apply(parameters: Any, images: Any) -> dict[str, Any]:
        if not on_host:  # uint8 is a fifth of the bytes to the device
            images = bilinear(images, inception.SIZE, preset.resize)
        found = inception.features(parameters, preset.normalise(images))
        return {tap: found[tap] for tap in taps}

    return Extractor(
        name="inception",
        label=weights.label,
        taps={tap: inception.TAPS[tap] for tap in taps},
        identity={
            "network": "Inception-v3, FID, 2015-12-05",
            "weights_sha256": weights.sha256,
            "published_file_sha256": (
                weights.file_sha256 if weights.published else None
            ),
            "preset": asdict(preset),
            "size": inception.SIZE,
            "code": _CODE,
        },
        prepare=prepare,
        apply=apply,
        parameters=inception.fold(weights.state),
    )


def read_inception(path: str | Path) -> InceptionWeights:
    """Reads weights, every key, shape and number checked.

    The file is the published .pth; a state dict of pytorch-fid's or
    torch-fidelity's modules, as .pth or .safetensors, with BatchNorm's counters
    or without; or one of `store`. UserError where it is missing or holds
    anything else.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(
            f"there are no Inception weights {path}; fetch them with "
            f"`{COMMAND}`."
        )
    header = _header(path)
    arrays = _published_arrays(read_state_dict(path))
    digest = _digest(arrays)
    if header.get("format") != _FORMAT:
        return InceptionWeights(arrays, digest, hash_of(path))
    if header.get("sha256") != digest:
        raise UserError(
            f"{path} is damaged: its numbers are not those that were "
            f"written; store them again with `{COMMAND}`."
        )
    return InceptionWeights(arrays, digest, header.get("file_sha256", ""))


def store(weights: InceptionWeights, path: str | Path) -> int:
    """Writes a .safetensors atomically; returns its bytes.

    UserError where the place cannot be written, or has another suffix.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"{path} should end in .safetensors.")
    return write_state_dict(
        path,
        [
            (key, LazyTensor(array.shape, array.__array__))
            for key, array in weights.state.items()
        ],
        metadata={
            "format": _FORMAT,
            "sha256": weights.sha256,
            "file_sha256": weights.file_sha256,
        },
    )


def stored_file() -> Path:
    """File of `i2i-prior weights inception`, which may not exist."""
    return user_cache("weights", "inception.safetensors")


def _header(path: Path) -> dict[str, str]:
    """Header of a file of `store`; empty for other files."""
    if path.suffix != ".safetensors":
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):  # `read_state_dict` reports it
        return {}


def _published_arrays(state: StateDict) -> dict[str, np.ndarray]:
    """Checks the arrays and converts them to float32, sorted by key."""
    keys = published_names(state)
    expected = published_shapes()
    if not any(key.startswith("fc.") for key in keys):
        expected = {k: s for k, s in expected.items() if k[:3] != "fc."}
    wrong = [key for key in expected if key not in keys]
    wrong += [key for key in keys if key not in expected]
    if wrong:
        raise UserError(
            f"{state.path} holds no Inception weights of FID: {len(wrong)} "
            "of its tensors are missing or unknown, first "
            f"{one_line(wrong[0])} (torchvision's own Inception is another "
            "network)."
        )
    for key, shape in expected.items():
        if state.shapes[keys[key]] != shape:
            raise UserError(
                f"{state.path} holds no Inception weights of FID: "
                f"{one_line(keys[key])} is {state.shapes[keys[key]]}, not "
                f"{shape}."
            )
    arrays = {
        key: np.asarray(state[keys[key]], np.float32)
        for key in sorted(expected)
    }
    for key, array in arrays.items():
        if not np.isfinite(array).all():
            raise UserError(
                f"{state.path} holds NaN or infinity in {one_line(key)}; fetch "
                "it again."
            )
    return arrays


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    found = hashlib.sha256()
    for key, array in arrays.items():
        found.update(key.encode())
        found.update(np.ascontiguousarray(array, "<f4").data)
    return found.hexdigest()
