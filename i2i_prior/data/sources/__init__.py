"""Sources of images, opened by SPEC."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from i2i_prior.data.record import Source
from i2i_prior.data.sources.mixture import Mixture
from i2i_prior.data.sources.spec import parse, parse_mix
from i2i_prior.errors import UserError


def open_source(spec: str) -> Source:
    """Opens a SPEC such as `folder:/data/images` or `builtin:photos`.

    Args:
        spec: `scheme:place`, and `#option=value,option=value` after it:
            `folder:PLACE#image=ENDING` (recursive),
            `tar:PATTERN#image=ENDING` (WebDataset shards),
            `arrayrecord:FOLDER` or a pattern,
            `tfds:NAME/SPLIT#data_dir=FOLDER,image=KEY`,
            `parquet:PATTERN#image=COLUMN,caption=COLUMN,label=COLUMN`,
            `select:FILE` (what `i2i-prior curate` kept),
            `builtin:photos`, `builtin:photos/heldout`, or
            `mix:0.7*SPEC + 0.3*SPEC`, which is a `Mixture`.
            Patterns take wildcards. Folders, tar and Parquet may be URLs
            (`s3://`, `gs://`, `https://`, ...). All but mix: take
            `#sample=N`: N records at random, always the same ones, and
            among them those of every smaller N.

    Returns:
        A source of at least one record, in an order that depends only on
        the names.

    Raises:
        UserError: the scheme is unknown, nothing readable is there, or there
            are fewer records than the sample.
    """
    if spec.startswith("mix:"):
        parts = parse_mix(spec.removeprefix("mix:"))
        return Mixture(
            [open_source(part) for _, part in parts],
            [weight for weight, _ in parts],
        )
    known = {kind: (*names, "sample") for kind, (_, names) in _KINDS.items()}
    found = parse(spec, known)
    options = dict(found.options)
    sample = options.pop("sample", None)
    source = OPENERS[found.scheme](found.place, **options)
    return source if sample is None else _sampled(spec, source, sample)


def _sampled(spec: str, source: Source, sample: str) -> Source:
    from i2i_prior.data.sources.selected import Selected

    if not sample.isdecimal() or not 1 <= int(sample) <= len(source):
        raise UserError(
            f"image source {spec} has {len(source):,} records, of which "
            f"sample={sample} cannot be taken; give a number of 1 to that"
        )
    kept = np.zeros(len(source), bool)
    kept[np.random.default_rng(0).permutation(len(source))[: int(sample)]] = 1
    return Selected(source, np.packbits(kept))


def _opener(path: str) -> Callable[..., Source]:
    """A function that imports module:name at its first call."""

    def open_it(place: str, **options: str) -> Source:
        module, _, name = path.partition(":")
        found: Any = getattr(import_module(f"i2i_prior.data.{module}"), name)
        return found(place, **options)

    return open_it


# scheme -> class or function that opens it, and its options
_KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "folder": ("sources.folder:FolderSource", ("image",)),
    "tar": ("sources.tar:TarSource", ("image",)),
    "arrayrecord": ("sources.arrayrecord:ArrayRecordSource", ()),
    "tfds": ("sources.tfds:TfdsSource", ("data_dir", "image")),
    "parquet": (
        "sources.parquet:ParquetSource",
        ("image", "caption", "label"),
    ),
    "select": ("sources.selected:open_selection", ()),
    "builtin": ("builtin:PhotoSource", ()),
}

OPENERS: dict[str, Callable[..., Source]] = {
    scheme: _opener(path) for scheme, (path, _) in _KINDS.items()
}
# A selection names the source that it was made from by another SPEC.
OPENERS["select"] = partial(OPENERS["select"], open_source=open_source)
