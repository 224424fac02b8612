"""Sidecar files of an image: captions, a class, a JSON object.

    .txt    captions, one a line
    .cls    the class, an integer
    .json   an object, such as a camera

Invalid sidecars are ignored, since the image is still usable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

SIDECARS = ("txt", "cls", "json")
MAX_BYTES = 1 << 24  # larger sidecars are ignored
CAPTIONS = ("caption", "captions", "text")  # usual names of such a column


def fields_of(found: Mapping[str, bytes]) -> dict[str, Any]:
    """`Record.fields` of sidecars, given by ending."""
    lines = found.get("txt", b"").decode("utf-8", "replace").splitlines()
    captions = [line.strip() for line in lines if line.strip()]
    try:
        label = int(found["cls"]) if "cls" in found else None
    except ValueError:
        label = None
    fields = text_fields(captions, label)
    try:
        value = json.loads(found["json"]) if "json" in found else None
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        fields["json"] = value
    return fields


def text_fields(captions: Any, label: Any) -> dict[str, Any]:
    """`Record.fields` of captions and label; those of other types are ignored.

    Args:
        captions: text, or a list of texts.
        label: an integer.
    """
    fields: dict[str, Any] = {}
    captions = [captions] if isinstance(captions, str) else captions
    if captions and all(isinstance(text, str) for text in captions):
        fields["captions"] = tuple(captions)
    if isinstance(label, int | np.integer):
        fields["label"] = int(label)
    return fields
