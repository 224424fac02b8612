"""What lies beside an image: captions, a class, a JSON object.

    .txt    captions, one a line
    .cls    the class, an integer
    .json   an object, such as a camera

What is not understood is left out, since the image is still good.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

SIDECARS = ("txt", "cls", "json")
# A caption is no book: nobody's memory is filled by what lies beside.
MAX_BYTES = 1 << 24


def fields_of(found: Mapping[str, bytes]) -> dict[str, Any]:
    """`Record.fields` of sidecars, which are given by their endings."""
    fields: dict[str, Any] = {}
    if "txt" in found:
        lines = found["txt"].decode("utf-8", "replace").splitlines()
        captions = tuple(line.strip() for line in lines if line.strip())
        if captions:
            fields["captions"] = captions
    try:
        if "cls" in found:
            fields["label"] = int(found["cls"])
    except ValueError:
        pass
    try:
        value = json.loads(found["json"]) if "json" in found else None
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        fields["json"] = value
    return fields
