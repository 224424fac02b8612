"""Registry of data sources, by the scheme of a SPEC."""

import pkgutil
from typing import Any

import numpy as np

from i2i_prior.data.record import Source
from i2i_prior.data.sources.mixture import Mixture
from i2i_prior.data.sources.spec import parse, parse_mix
from i2i_prior.errors import UserError

_HERE = "i2i_prior.data.sources"
# scheme -> class or function that opens a place, and its options
SOURCES: dict[str, tuple[str, tuple[str, ...]]] = {
    "folder": (f"{_HERE}.folder:FolderSource", ("image",)),
    "tar": (f"{_HERE}.tar:TarSource", ("image",)),
    "arrayrecord": (f"{_HERE}.arrayrecord:ArrayRecordSource", ()),
    "tfds": (f"{_HERE}.tfds:TfdsSource", ("data_dir", "image")),
    "parquet": (
        f"{_HERE}.parquet:ParquetSource",
        ("image", "caption", "label"),
    ),
    "select": (f"{_HERE}.selected:open_selection", ()),
    "builtin": ("i2i_prior.data.builtin:PhotoSource", ()),
}
SCHEMES = (*SOURCES, "mix")


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

    The source has at least one record, in an order that depends only on the
    names. UserError if the scheme is unknown, nothing readable is there, or
    there are fewer records than the sample.
    """
    if spec.startswith("mix:"):
        weights, parts = zip(*parse_mix(spec.removeprefix("mix:")), strict=True)
        return Mixture([open_source(part) for part in parts], weights)
    known = {kind: (*names, "sample") for kind, (_, names) in SOURCES.items()}
    scheme, place, given = parse(spec, known)
    sample = given.pop("sample", None)
    options: dict[str, Any] = dict(given)
    if scheme == "select":
        # It names the source that it was made from by another SPEC.
        options["open_source"] = open_source
    source = pkgutil.resolve_name(SOURCES[scheme][0])(place, **options)
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
