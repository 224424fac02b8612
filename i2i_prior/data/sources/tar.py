"""Images in tar archives, in the WebDataset convention."""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np

from i2i_prior.data.record import Record, fingerprint_of, split_name
from i2i_prior.data.sources import places
from i2i_prior.data.sources.names import EXTENSIONS, Names, is_image_name
from i2i_prior.data.sources.sidecars import fields_of
from i2i_prior.data.sources.tar_index import TarIndex, index_of
from i2i_prior.errors import UserError

# Open archives per process: a training set of thousands of shards must not
# run into the usual limit of 1,024 open files.
_OPEN_ARCHIVES = 256
# The files of an example are usually neighbours; with more than this between
# them they are read one by one.
_GAP = 1 << 16  # bytes


class TarSource:
    """The examples inside uncompressed tar archives, in archive order.

    Neighbouring members whose names agree up to the first dot of the base
    name are one example: its first image is the data, further ones, the
    captions, the class and the JSON object are fields (see `sidecars`).
    Examples without an image are skipped. With several archives a record is
    named `archive.tar/member`.

    The archives are walked once for the offsets, which are kept in the
    user's cache while size and time of change are the same; a read is one
    `os.pread`, without lock or seek. Nothing is unpacked, so that absolute or
    `..` member names do no harm.

    Attributes:
        notes: one text for each archive that is not used completely: it is
            cut, damaged, goes on after its end mark, or has links to other
            places.

    Args:
        pattern: path, wildcard, or URL that fsspec reads.
        image: end of the name, after the key, of the image that is the data,
            as "labels.jpg"; "" for the first. Examples without it are
            skipped.

    Raises:
        UserError: an archive is missing or holds no complete file, or there
            is no image.
    """

    def __init__(self, pattern: str, image: str = "") -> None:
        self._paths = places.find(places.absolute(pattern), "tar")
        indices = [index_of(path) for path in self._paths]
        self._members = Names.joined([index.names for index in indices])
        self._offsets = np.concatenate([index.offsets for index in indices])
        self._sizes = np.concatenate([index.sizes for index in indices])
        self._examples, self._untils = _examples(indices, image.lower())
        if not len(self._examples):
            what = f"no image {image}" if image else "no image"
            raise UserError(
                f"Archive {pattern} holds {what}: its members should end in "
                f"{image or ', '.join(EXTENSIONS)}."
            )
        self.notes = [index.note for index in indices if index.note]
        self._open: OrderedDict[int, io.FileIO] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Record:
        first, end, chosen = self._examples[index].tolist()
        index %= len(self)
        number = int(self._untils.searchsorted(index, side="right"))
        parts = self._read(number, first, end)
        further, sidecars, chosen_name = {}, {}, ""
        for member, data in enumerate(parts, first):
            name = self._members[member]
            if member == chosen:
                chosen_name = name
            elif is_image_name(name):
                further[split_name(name)[1]] = data
            else:
                sidecars[split_name(name)[1]] = data
        fields = fields_of(sidecars)
        if further:
            fields["images"] = further
        name = self._prefix(number) + chosen_name
        return Record(name, parts[chosen - first], fields)

    def fingerprint(self) -> str:
        sizes = self._sizes[self._examples[:, 2]].tolist()
        return fingerprint_of("tar", self._names(), sizes)

    def _prefix(self, number: int) -> str:
        several = len(self._paths) > 1
        return f"{os.path.basename(self._paths[number])}/" if several else ""

    def _names(self) -> Iterator[str]:
        start = 0
        for number, until in enumerate(self._untils.tolist()):
            prefix = self._prefix(number)
            for chosen in self._examples[start:until, 2].tolist():
                yield prefix + self._members[chosen]
            start = until

    def _read(self, number: int, first: int, end: int) -> list[bytes]:
        """The bytes of the members in [first, end)."""
        sizes = self._sizes[first:end].tolist()
        offsets = self._offsets[first:end].tolist()
        ends = [at + size for at, size in zip(offsets, sizes, strict=True)]
        # Hard links may refer to any earlier place.
        start = min(offsets)
        extent = max(ends) - start
        if extent > sum(sizes) + _GAP:
            pairs = zip(offsets, sizes, strict=True)
            return [self._bytes(number, at, size) for at, size in pairs]
        data = self._bytes(number, start, extent)
        if len(sizes) == 1:
            return [data]
        return [
            data[at - start : until - start]
            for at, until in zip(offsets, ends, strict=True)
        ]

    def _bytes(self, number: int, offset: int, size: int) -> bytes:
        path = self._paths[number]
        if not size:
            return b""
        if places.is_url(path):
            data = places.read(path, offset, size)
        else:
            # A reference keeps it open until the read is done.
            archive = self._archive(number)
            data = os.pread(archive.fileno(), size, offset)
        if len(data) != size:
            raise OSError(5, f"{path} is no longer as it was indexed")
        return data

    def _archive(self, number: int) -> io.FileIO:
        """An open archive, closed when its last reference is dropped.

        A reader may still hold one that is evicted here, hence no close.
        """
        with self._lock:
            archive = self._open.pop(number, None)
            if archive is None:
                archive = io.FileIO(self._paths[number])
            self._open[number] = archive
            if len(self._open) > _OPEN_ARCHIVES:
                self._open.popitem(last=False)
            return archive

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        del state["_open"], state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open = OrderedDict()
        self._lock = threading.Lock()


def _examples(
    indices: list[TarIndex], image: str
) -> tuple[np.ndarray, np.ndarray]:
    """First member, end and data of each example, and ends of the archives.

    Returns:
        (examples, 3) int64 into the members of all archives, and
        (archives,) int64 into the examples.
    """
    tables, base = [], 0
    for index in indices:
        right = [
            is_image_name(name) and image in ("", split_name(name)[1])
            for name in index.names
        ]
        chosen = np.flatnonzero(np.array(right, bool))
        first, end = index.starts[:-1], index.starts[1:]
        # The first right member of each example, if it lies within it.
        place = np.searchsorted(chosen, first)
        data = np.append(chosen, len(index.names))[place]
        table = np.stack([first, end, data], 1)[data < end]
        tables.append(table + base)
        base += len(index.names)
    untils = np.cumsum([len(table) for table in tables])
    return np.concatenate(tables), untils
