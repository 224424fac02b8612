"""Sources of images: what a SPEC means, behind one protocol."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from i2i_prior.data.record import Record, Source
from i2i_prior.data.sources.mixture import Mixture
from i2i_prior.data.sources.spec import parse, parse_mix

__all__ = ["OPENERS", "Mixture", "Record", "Source", "open_source"]


def open_source(spec: str) -> Source:
    """Opens a SPEC such as `folder:/data/images` or `builtin:photos`.

    Args:
        spec: `scheme:place`, and `#option=value,option=value` after it:
            `folder:PLACE` (recursive),
            `tar:PATTERN#image=ENDING` (WebDataset shards),
            `arrayrecord:FOLDER` or a pattern,
            `tfds:NAME/SPLIT#data_dir=FOLDER,image=KEY`,
            `parquet:PATTERN#image=COLUMN,caption=COLUMN,label=COLUMN`,
            `select:FILE` (what `i2i-prior curate` kept),
            `builtin:photos`, `builtin:photos/heldout`, or
            `mix:0.7*SPEC + 0.3*SPEC`, which is a `Mixture`.
            Patterns take wildcards. Folders, tar and Parquet may be URLs
            (`s3://`, `gs://`, `https://`, ...).

    Returns:
        A source of at least one record, in an order that depends only on
        the names.

    Raises:
        UserError: the scheme is unknown, or nothing readable is there.
    """
    if spec.startswith("mix:"):
        parts = parse_mix(spec.removeprefix("mix:"))
        return Mixture(
            [open_source(part) for _, part in parts],
            [weight for weight, _ in parts],
        )
    options = {scheme: names for scheme, (_, names) in _KINDS.items()}
    found = parse(spec, options)
    return OPENERS[found.scheme](found.place, **found.options)


def _opener(path: str) -> Callable[..., Source]:
    """Calls what is named module:function, imported at the first call."""

    def open_it(place: str, **options: str) -> Source:
        module, _, name = path.partition(":")
        found: Any = getattr(import_module(f"i2i_prior.data.{module}"), name)
        return found(place, **options)

    return open_it


# scheme -> what opens it, and its options
_KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "folder": ("sources.folder:FolderSource", ()),
    "tar": ("sources.tar:TarSource", ("image",)),
    "arrayrecord": ("sources.arrayrecord:ArrayRecordSource", ()),
    "tfds": ("sources.tfds:TfdsSource", ("data_dir", "image")),
    "parquet": (
        "sources.parquet:ParquetSource",
        ("image", "caption", "label"),
    ),
    "select": ("curation.selected:open_selection", ()),
    "builtin": ("builtin:PhotoSource", ()),
}

OPENERS: dict[str, Callable[..., Source]] = {
    scheme: _opener(path) for scheme, (path, _) in _KINDS.items()
}
