"""Sources of images: `folder:`, `tar:` and `builtin:` behind one protocol."""

from __future__ import annotations

from collections.abc import Callable

from i2i_prior.data.record import Record, Source
from i2i_prior.data.sources.folder import FolderSource
from i2i_prior.data.sources.tar import TarSource
from i2i_prior.errors import UserError

__all__ = ["OPENERS", "Record", "Source", "open_source"]


def open_source(spec: str) -> Source:
    """Opens a SPEC such as `folder:/data/images` or `builtin:photos`.

    Args:
        spec: `folder:PATH` (recursive), `tar:PATTERN` (WebDataset shards,
            wildcards allowed), `builtin:photos`, `builtin:photos/heldout`.

    Returns:
        A source of at least one record, in an order that depends only on
        the names.

    Raises:
        UserError: the scheme is unknown, or nothing readable is there.
    """
    scheme, colon, rest = spec.partition(":")
    if not colon or scheme not in OPENERS:
        known = ", ".join(f"{name}:" for name in OPENERS)
        raise UserError(
            f"Image source {spec!r} is not understood: write one of {known} "
            "followed by a path or name, as in folder:/data/images."
        )
    if not rest:
        raise UserError(
            f"Image source {spec!r} names nothing after the colon: write a "
            "path or name there, as in folder:/data/images."
        )
    return OPENERS[scheme](rest)


def _open_builtin(name: str) -> Source:
    from i2i_prior.data.builtin import PhotoSource

    return PhotoSource(name)


def _not_read_yet(scheme: str) -> Callable[[str], Source]:
    def refuse(rest: str) -> Source:
        raise UserError(
            f"Image source {scheme}:{rest} is of a kind that this version "
            "does not read yet: use folder: or tar: instead."
        )

    return refuse


OPENERS: dict[str, Callable[[str], Source]] = {
    "folder": FolderSource,
    "tar": TarSource,
    "builtin": _open_builtin,
    "arrayrecord": _not_read_yet("arrayrecord"),
    "tfds": _not_read_yet("tfds"),
}
