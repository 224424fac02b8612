"""Extractors by their names on the command line."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.colour_texture import FEATURES, load_features
from i2i_prior.evaluation.features.extractor import Extractor

TAP = "features"  # of a built-in set, or of FILE.py:function
_PROBE = (2, 64, 64, 3)  # images that show the number of features
_TRANSFORMERS = ("dinov2", "clip")
NETWORKS = ("inception", *_TRANSFORMERS)  # features that have weights
_CODE = 1  # of the built-in sets; goes up when any of their numbers changes


def open_extractor(
    spec: str,
    preset: str = "adm",
    *,
    weights: str | Path | None = None,
    taps: Sequence[str] = (),
) -> Extractor:
    """Opens the extractor that `spec` names.

    Args:
        spec: one of NETWORKS, a key of `colour_texture.FEATURES`, or
            FILE.py:function, which is run.
        preset: of Inception; others have one protocol only.
        weights: file of a network; None for Inception's stored file.
        taps: of Inception that are used besides pool3.

    Raises:
        UserError: it is unknown, or its weights are missing or unusable.
    """
    if spec == "inception":
        from i2i_prior.evaluation.features.inception_weights import (
            COMMAND,
            load_inception,
            stored_file,
        )

        if weights is None and not stored_file().exists():
            raise UserError(
                "FID needs the published Inception weights, and there are "
                f"none; fetch them with `{COMMAND}`, or measure with "
                f"--features {' or '.join(FEATURES)}, which need none."
            )
        return load_inception(weights, preset, ("pool3", *taps))
    if spec in _TRANSFORMERS:
        from i2i_prior.evaluation.features import vision_encoders

        if weights is None:
            raise UserError(
                f"--features {spec} needs the weights of the network; give "
                "--weights FILE."
            )
        return getattr(vision_encoders, f"load_{spec}")(weights)
    if weights is not None:
        raise UserError(
            f"features '{spec}' have no weights; leave --weights out, or give "
            f"--features inception, {' or '.join(_TRANSFORMERS)}."
        )
    return pixel_extractor(spec)


def pixel_extractor(spec: str) -> Extractor:
    """Extractor of a NumPy function; errors are those of `load_features`."""
    found = load_features(spec)
    probe = np.random.default_rng(0).integers(0, 256, _PROBE).astype(np.uint8)
    dim = found(probe).shape[1]
    identity: dict[str, Any] = {"features": found.name, "code": _CODE}
    if spec not in FEATURES:
        source = Path(spec.rpartition(":")[0]).read_bytes()
        identity["code"] = hashlib.sha256(source).hexdigest()

    def apply(parameters: Any, images: np.ndarray) -> dict[str, np.ndarray]:
        return {TAP: found(images)}

    return Extractor(
        name=found.name,
        label=found.label,
        taps={TAP: dim},
        identity=identity,
        prepare=lambda images: images,
        apply=apply,
        traced=False,
    )
