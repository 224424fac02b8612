"""`manifest.json`: contents and origin of a folder of prepared examples.

It is written last, so that a folder with a manifest is complete. All of it is
validated on reading.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from i2i_prior.data.examples import Layout
from i2i_prior.errors import UserError

FORMAT = 1
MANIFEST, PLAN, DROPPED = "manifest.json", "plan.json", "dropped.jsonl"
KINDS = ("images", "latents")
# Types of the other keys.
_TYPES: dict[str, type | tuple[type, ...]] = {
    "source": str,
    "source_fingerprint": str,
    "records": int,
    "examples_per_shard": int,
    "dropped": dict,
    "preprocessing": dict,
    "autoencoder": (dict, type(None)),
    "encoders": dict,
    "version": str,
    "content_hash": str,
}
# Types of the keys of each network.
_AUTOENCODER: dict[str, type] = {"kind": str, "shape": str, "sha256": str}
_ENCODER: dict[str, type] = {
    "family": str,
    "sha256": str,
    "choice": str,
    "view_size": int,
}
_PIXELS = ("family", "symmetric")


@dataclass(frozen=True)
class Plan:
    """Contents of a prepared folder, in JSON values.

    Shard s is a pure function of (source, plan, s), so that a shard of a
    killed run is either complete or made again with the same bytes.

    The autoencoder is {"kind", "shape", "sha256"}, its shape empty if the kind
    is a preset; an encoder is {"family", "sha256", "choice", "view_size",
    "pixels"}, the last as config.encoder.pixels; older manifests lack it.
    """

    kind: str  # "images" (encoded bytes) or "latents"
    fields: list[dict[str, Any]]  # `Layout.to_json` of an example
    source: str  # SPEC; identified by source_fingerprint and records
    source_fingerprint: str
    records: int  # of the source
    examples_per_shard: int  # records of the source for each shard
    preprocessing: dict[str, Any]  # options of the pixels, by name
    autoencoder: dict[str, Any] | None  # None without latents
    encoders: dict[str, dict[str, Any]]  # by name
    version: str  # of i2i_prior

    @property
    def shard_count(self) -> int:
        """Number of files."""
        return -(-self.records // self.examples_per_shard)

    @cached_property
    def layout(self) -> Layout:
        """Turns a record of a shard into an example."""
        return Layout.from_json(self.fields)

    def indices(self, shard: int) -> range:
        """Records of the source for a shard."""
        start = shard * self.examples_per_shard
        return range(start, min(start + self.examples_per_shard, self.records))

    def file(self, shard: int, ending: str = "array_record") -> str:
        """Name of a shard, or with "json" of its outcome.

        The latter is kept until there is a manifest.
        """
        return f"data-{shard:05d}-of-{self.shard_count:05d}.{ending}"

    def to_json(self) -> dict[str, Any]:
        """JSON form of the plan."""
        return {"format": FORMAT, **asdict(self)}


@dataclass(frozen=True)
class Shard:
    """One ArrayRecord file: its name, examples (may be 0), bytes and hash."""

    file: str
    count: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest(Plan):
    """Description of a prepared folder."""

    folder: Path
    count: int  # examples in all shards; the other `records` were dropped
    shards: tuple[Shard, ...]  # in the order of the examples
    dropped: dict[str, int]  # by reason; dropped.jsonl has the names
    content_hash: str  # 16 hex digits, different for other contents

    @property
    def counts(self) -> dict[str, int]:
        """Path of each shard -> examples in it."""
        return {str(self.folder / s.file): s.count for s in self.shards}


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a prepared folder, checked against its files.

    Costs one stat of each shard; none is read. UserError if the folder is
    missing or unfinished, the manifest is damaged or of another version, or a
    shard is missing or of another size.
    """
    folder = Path(folder)
    try:
        text = (folder / MANIFEST).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(_why_none(folder, error)) from error
    try:
        manifest = _parse(folder, json.loads(text))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{folder / MANIFEST} is damaged ({error}): prepare it again."
        ) from error
    for shard in manifest.shards:
        path = folder / shard.file
        try:
            size = path.stat().st_size
        except OSError as error:
            raise UserError(
                f"Shard {path} cannot be read ({error.strerror}): fetch it "
                "again, or prepare the folder again."
            ) from error
        if size != shard.bytes:
            raise UserError(
                f"Shard {path} has {size} bytes instead of {shard.bytes}, so "
                "it is truncated or another: fetch it again, or prepare the "
                "folder again."
            )
    return manifest


def content_hash(hashes: Iterable[str]) -> str:
    """16 hex digits over the shards' hashes, in their order."""
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]


def _why_none(folder: Path, error: Exception) -> str:
    if (folder / PLAN).exists() and isinstance(error, FileNotFoundError):
        return (
            f"{folder} is not prepared to its end: run the same i2i-prior "
            "prepare again, it goes on where it stopped."
        )
    why = getattr(error, "strerror", None) or "it is no text"
    return (
        f"{folder} holds no readable {MANIFEST} ({why}): give a folder that "
        "i2i-prior prepare wrote."
    )


def _parse(folder: Path, found: Any) -> Manifest:
    """The manifest; raises ValueError if anything in it is invalid."""
    _require(isinstance(found, dict), "it is no JSON object")
    version, kind = found.get("format"), found.get("kind")
    _require(version == FORMAT, f"format {version!r} is not {FORMAT}")
    _require(kind in KINDS, f"kind {kind!r}")
    for name, types in _TYPES.items():
        _require(name in found, f"it lacks {name}")
        value = found[name]
        _require(isinstance(value, types), f"{name} is {value!r:.40}")
    numbers = found["dropped"].values()
    _require(all(map(_is_count, numbers)), "dropped holds no counts")
    layout = Layout.from_json(found.get("fields"))
    _check_networks(found, layout)
    rows = found.get("shards")
    _require(isinstance(rows, list) and bool(rows), "it names no shards")
    shards = tuple(map(_shard, rows))
    count = found.get("count")
    _require(_is_count(count) and count > 0, f"count is {count!r:.40}")
    total = sum(shard.count for shard in shards)
    _require(total == count, f"its shards hold {total} examples, not {count}")
    digest = content_hash(shard.sha256 for shard in shards)
    _require(digest == found["content_hash"], "its content_hash is another")
    kept = {name: found[name] for name in (*_TYPES, "kind", "fields")}
    return Manifest(folder=folder, count=count, shards=shards, **kept)


def _check_networks(found: dict[str, Any], layout: Layout) -> None:
    """Checks the entries of the networks, and that their arrays exist."""
    autoencoder, encoders = found["autoencoder"], found["encoders"]
    wanted = [f"embedding/{name}" for name in encoders]
    if autoencoder is not None:
        _require_keys("autoencoder", autoencoder, _AUTOENCODER)
        wanted.append("latent")
    for name, encoder in encoders.items():
        _require_keys(f"encoders.{name:.40}", encoder, _ENCODER)
        pixels = encoder.get("pixels", _PIXELS[0])
        said = f"encoders.{name:.40}.pixels is {pixels!r:.40}"
        _require(pixels in _PIXELS, said)
    if wanted:
        size = found["preprocessing"].get("size")
        _require(_is_count(size), f"preprocessing.size is {size!r:.40}")
    arrays = {field.name for field in layout.fields if field.kind == "array"}
    lacking = ", ".join(name for name in wanted if name not in arrays)
    _require(not lacking, f"its fields lack {lacking:.80}")


def _shard(row: Any) -> Shard:
    _require(isinstance(row, dict), "a shard is no JSON object")
    file, digest = row.get("file"), row.get("sha256")
    # A name with a folder in it could point anywhere.
    plain = isinstance(file, str) and Path(file).name == file
    _require(plain and "\0" not in file, f"a shard is named {file!r:.60}")
    counts = row.get("count"), row.get("bytes")
    _require(all(map(_is_count, counts)), f"{file} has no count and bytes")
    _require(isinstance(digest, str), f"{file} has no sha256")
    return Shard(file, *counts, digest)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _require_keys(name: str, found: Any, types: dict[str, type]) -> None:
    _require(isinstance(found, dict), f"{name} is {found!r:.40}")
    for key, kind in types.items():
        value = found.get(key)
        _require(type(value) is kind, f"{name}.{key} is {value!r:.40}")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
