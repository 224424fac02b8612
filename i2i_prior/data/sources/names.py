"""Which file names are images."""

from __future__ import annotations

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def is_image_name(path: str) -> bool:
    """Whether a path names an image that is not hidden (`._x.jpg`, ...)."""
    base = path.rpartition("/")[2]
    return base.lower().endswith(EXTENSIONS) and not base.startswith(".")
