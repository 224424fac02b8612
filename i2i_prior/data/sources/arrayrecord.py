"""Images in ArrayRecord files, prepared or encoded images alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from i2i_prior.data.examples import Layout
from i2i_prior.data.manifest import MANIFEST, PLAN, read_manifest
from i2i_prior.data.record import Record, fingerprint_of, position
from i2i_prior.data.shard_files import DAMAGE, ShardReader
from i2i_prior.data.sources import places
from i2i_prior.errors import UserError


class ArrayRecordSource:
    """The images of ArrayRecord files, in the order of the file names.

    In a folder of `i2i-prior prepare` an example has fields; elsewhere each
    record is one encoded image.

    Args:
        place: a folder, file or wildcard on this machine.

    Raises:
        UserError: there is no such file, one is truncated, or the folder is
            unfinished or holds latents.
    """

    def __init__(self, place: str) -> None:
        path = places.absolute(place)
        if places.is_url(path):
            raise UserError(
                f"ArrayRecord files are read from this machine only, not from "
                f"{place}: copy or mount them, or use tar: or parquet:."
            )
        self._layout: Layout | None = None
        self._hash = ""
        if _is_prepared(path):
            manifest = read_manifest(path)
            if manifest.kind != "images":
                raise UserError(
                    f"Folder {place} holds prepared {manifest.kind} and no "
                    "images: train from it with data.source itself, or give "
                    "the source that it was made from."
                )
            self._layout, self._hash = manifest.layout, manifest.content_hash
            shards = {
                os.path.join(path, shard.file): shard.count
                for shard in manifest.shards
            }
        else:
            shards = {file: _count(file) for file in _find(path)}
        self._reader = ShardReader(shards)
        if not len(self._reader):
            raise UserError(
                f"ArrayRecord {place} holds no record: give files that do."
            )
        self._ends = np.cumsum(list(self._reader.shards.values()))
        self._paths = list(self._reader.shards)

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int) -> Record:
        index = position(index, len(self))
        (data,) = self.read_examples([index])
        if self._layout is None:
            return Record(self._name(index), data)
        try:
            return _record(self._layout.unpack(data))
        except (ValueError, KeyError, TypeError) as error:
            raise OSError(5, f"a damaged example ({error})") from error

    def read_examples(self, indices: Sequence[int]) -> list[bytes]:
        """Stored bytes, see `ShardReader.read`."""
        return self._reader.read(indices)

    def fingerprint(self) -> str:
        if self._hash:
            return self._hash
        names = [
            f"{os.path.basename(path)} {os.path.getsize(path)}"
            for path in self._paths
        ]
        counts = self._reader.shards.values()
        return fingerprint_of("arrayrecord", names, counts)

    def _name(self, index: int) -> str:
        shard = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[shard - 1]) if shard else 0
        return f"{os.path.basename(self._paths[shard])}/{index - start}"


def _is_prepared(path: str) -> bool:
    made = (MANIFEST, PLAN)
    return any(os.path.exists(os.path.join(path, name)) for name in made)


def _find(path: str) -> Iterator[str]:
    """Files of a path or in a folder; shards may be numbered."""
    if os.path.isdir(path):
        path = os.path.join(path, "*.array*record*")
    yield from places.find(path, "arrayrecord")


def _count(path: str) -> int:
    """Number of records in one file, read from its end."""
    from array_record.python import array_record_module

    try:
        reader = array_record_module.ArrayRecordReader(path)
        try:
            return int(reader.num_records())
        finally:
            reader.close()
    except (*DAMAGE, OSError) as error:
        raise UserError(
            f"ArrayRecord file {path} is truncated or no such file "
            f"({places.one_line(error)}): fetch or write it again."
        ) from error


def _record(example: dict[str, Any]) -> Record:
    """Record of an example; raises KeyError or TypeError if it is invalid."""
    fields = dict(example.get("json") or {})
    if "captions" in fields:
        fields["captions"] = tuple(fields["captions"])
    names = example.get("images") or []
    if names:
        fields["images"] = {
            name: example[f"images/{number}"]
            for number, name in enumerate(names)
        }
    return Record(example["name"], example["image"], fields)
