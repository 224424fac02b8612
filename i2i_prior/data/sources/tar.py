"""Images in tar archives, in the WebDataset convention."""

import io
import os
from collections.abc import Iterator

import numpy as np

from i2i_prior.data.process_cache import ProcessCache
from i2i_prior.data.record import (
    Record,
    fingerprint_of,
    locate,
    sidecar_fields,
    split_name,
)
from i2i_prior.data.sources import places
from i2i_prior.data.sources.names import EXTENSIONS, Names, is_image_name
from i2i_prior.data.sources.tar_index import index_of
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
    captions, the class and the JSON object are fields (see `sidecar_fields`).
    Examples without an image are skipped. With several archives a record is
    named `archive.tar/member`.

    The archives are walked once for the offsets, which are kept in the
    user's cache while size and time of change are the same; a read is one
    `os.pread`, without lock or seek. Nothing is unpacked, so that absolute or
    `..` member names do no harm.

    `notes` has a text for each archive that is not used completely: it is cut,
    damaged, goes on after its end mark, or has links to other places.

    `pattern` is a path, wildcard, or URL that fsspec reads. `image` is the end
    of the name, after the key, of the image that is the data, as "labels.jpg",
    or "" for the first; examples without it are skipped. UserError if an
    archive is missing or holds no complete file, or there is no image.
    """

    def __init__(self, pattern: str, image: str = "") -> None:
        self._paths = places.find(places.absolute(pattern), "tar")
        indices = [index_of(path) for path in self._paths]
        names = [Names(index["text"], index["ends"]) for index in indices]
        self._members = Names.joined(names)
        self._offsets = np.concatenate([index["offsets"] for index in indices])
        self._sizes = np.concatenate([index["sizes"] for index in indices])
        starts = [index["starts"] for index in indices]
        self._examples, self._untils = _examples(names, starts, image.lower())
        if not len(self._examples):
            what = f"no image {image}" if image else "no image"
            raise UserError(
                f"Archive {pattern} holds {what}: its members should end in "
                f"{image or ', '.join(EXTENSIONS)}."
            )
        notes = [index["note"].tobytes().decode() for index in indices]
        self.notes = [note for note in notes if note]
        self._archives = ProcessCache(_OPEN_ARCHIVES)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Record:
        number, _ = locate(self._untils, index)
        first, end, chosen = self._examples[index].tolist()
        images: dict[str, bytes] = {}
        sidecars: dict[str, bytes] = {}
        for member, data in enumerate(self._read(number, first, end), first):
            name = self._members[member]
            if member == chosen:
                chosen_name, chosen_data = name, data
            else:
                found = images if is_image_name(name) else sidecars
                found[split_name(name)[1]] = data
        fields = sidecar_fields(sidecars)
        if images:
            fields["images"] = images
        return Record(self._prefix(number) + chosen_name, chosen_data, fields)

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
        if len(sizes) == 1:
            return [self._bytes(number, *offsets, *sizes)]
        # Hard links may refer to any earlier place.
        start = min(offsets)
        extent = max(map(sum, zip(offsets, sizes, strict=True))) - start
        spans = zip(offsets, sizes, strict=True)
        if extent > sum(sizes) + _GAP:
            return [self._bytes(number, at, size) for at, size in spans]
        data = self._bytes(number, start, extent)
        return [data[at - start : at - start + size] for at, size in spans]

    def _bytes(self, number: int, offset: int, size: int) -> bytes:
        path = self._paths[number]
        if not size:
            return b""
        if places.is_url(path):
            data = places.read(path, offset, size)
        else:
            # The reference keeps an archive that is dropped open until then.
            archive = self._archives.get(number, lambda: io.FileIO(path))
            data = os.pread(archive.fileno(), size, offset)
        if len(data) != size:
            raise OSError(5, f"{path} is no longer as it was indexed")
        return data


def _examples(
    names: list[Names], starts: list[np.ndarray], image: str
) -> tuple[np.ndarray, np.ndarray]:
    """First member, end and data of each example, and ends of the archives.

    They are (examples, 3) int64 into the members of all archives, and
    (archives,) int64 into the examples.
    """
    tables, base = [], 0
    for members, bounds in zip(names, starts, strict=True):
        right = [
            is_image_name(name) and image in ("", split_name(name)[1])
            for name in members
        ]
        chosen = np.flatnonzero(np.array(right, bool))
        first, end = bounds[:-1], bounds[1:]
        # The first right member of each example, if it lies within it.
        data = np.append(chosen, len(members))[chosen.searchsorted(first)]
        tables.append(np.stack([first, end, data], 1)[data < end] + base)
        base += len(members)
    untils = np.cumsum([len(table) for table in tables])
    return np.concatenate(tables), untils
