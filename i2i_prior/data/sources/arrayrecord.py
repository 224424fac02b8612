"""Images in ArrayRecord files, prepared or encoded images alone."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from i2i_prior.data.examples import Layout
from i2i_prior.data.manifest import MANIFEST, PLAN, read_manifest
from i2i_prior.data.process_cache import ProcessCache
from i2i_prior.data.record import Record, fingerprint_of, locate
from i2i_prior.data.sources import places
from i2i_prior.errors import UserError

# For fewer records the library's threads cost more than they save.
_FEW = 64
# Exceptions of the library for damaged bytes.
_DAMAGE = (RuntimeError, ValueError, IndexError)


class ShardReader:
    """The records of several ArrayRecord files, one file after the other.

    Picklable, and safe for many threads. `shards` are path -> records in it, at
    least one in all.
    """

    def __init__(self, shards: Mapping[str, int]) -> None:
        self.shards = {path: count for path, count in shards.items() if count}
        self._reader = ProcessCache()

    def __len__(self) -> int:
        return sum(self.shards.values())

    def read(self, indices: Sequence[int]) -> list[bytes]:
        """Stored bytes of records, in the order of `indices`; OSError if one of
        them is damaged."""
        try:
            # Late, and once a process: a reader holds open files and threads.
            reader = self._reader.get(None, self._open)
            if len(indices) < _FEW:
                return [reader[index] for index in indices]
            return list(reader.__getitems__(list(indices)))
        except _DAMAGE as error:
            raise OSError(5, places.one_line(error)) from error

    def _open(self) -> Any:
        from array_record.python import array_record_data_source

        # With the counts in the names no file is opened for them.
        return array_record_data_source.ArrayRecordDataSource(
            [f"{path}[0:{n}]" for path, n in self.shards.items()]
        )


class ArrayRecordSource:
    """The images of ArrayRecord files, in the order of the file names.

    In a folder of `i2i-prior prepare` an example has fields; elsewhere each
    record is one encoded image.

    `place` is a folder, file or wildcard on this machine. UserError if there is
    no such file, one is truncated, or the folder is unfinished or holds
    latents.
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
        if any(os.path.exists(f"{path}/{name}") for name in (MANIFEST, PLAN)):
            manifest = read_manifest(path)
            if manifest.kind != "images":
                raise UserError(
                    f"Folder {place} holds prepared {manifest.kind} and no "
                    "images: train from it with data.source itself, or give "
                    "the source that it was made from."
                )
            self._layout, self._hash = manifest.layout, manifest.content_hash
            shards = manifest.counts
        else:
            # Shards may be numbered.
            pattern = f"{path}/*.array*record*" if os.path.isdir(path) else path
            files = places.find(pattern, "arrayrecord")
            shards = {file: _count(file) for file in files}
        self.reader = ShardReader(shards)
        if not len(self.reader):
            raise UserError(
                f"ArrayRecord {place} holds no record: give files that do."
            )
        self._ends = np.cumsum(list(self.reader.shards.values()))
        self._paths = list(self.reader.shards)

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> Record:
        shard, place = locate(self._ends, index)
        (data,) = self.reader.read([range(len(self))[index]])
        if self._layout is None:
            name = os.path.basename(self._paths[shard])
            return Record(f"{name}/{place}", data)
        try:
            return _record(self._layout.unpack(data))
        except (ValueError, KeyError, TypeError) as error:
            raise OSError(5, f"a damaged example ({error})") from error

    def fingerprint(self) -> str:
        if self._hash:
            return self._hash
        names = [
            f"{os.path.basename(path)} {os.path.getsize(path)}"
            for path in self._paths
        ]
        counts = self.reader.shards.values()
        return fingerprint_of("arrayrecord", names, counts)


def _count(path: str) -> int:
    """Number of records in one file, read from its end."""
    from array_record.python import array_record_module

    try:
        reader = array_record_module.ArrayRecordReader(path)
        try:
            return int(reader.num_records())
        finally:
            reader.close()
    except (*_DAMAGE, OSError) as error:
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
