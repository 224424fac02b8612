"""Records, and the protocol of the sources that hold them.

A record is one stored example: an image, or several of one key. In tar
archives, and in folders with the option `image`, files that agree up to the
first dot of their names are one record:

    facades/0001.photo.jpg  facades/0001.labels.jpg  facades/0001.json

Its first image is `Record.data` (chosen by `#image=photo.jpg` in the SPEC,
otherwise the first in the archive); `Record.image("labels.jpg")` finds any of
them. Training on pairs of them is described in `transforms`.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

# Endings of the sidecar files of an image: captions, one a line; the class, an
# integer; an object, such as a camera.
SIDECARS = ("txt", "cls", "json")
MAX_SIDECAR = 1 << 24  # bytes; larger sidecars are ignored
CAPTIONS = ("caption", "captions", "text")  # usual names of such a column


@dataclass(frozen=True)
class Record:
    """One stored image and the fields stored with it.

    Attributes:
        name: relative to the source (path in the folder, member of the tar).
        data: encoded bytes, or pixels (H, W, 3) uint8 in [0, 255]. Pixels are
            read-only, since a source may return the same array again.
        fields: further content, by these names only:
            captions: tuple of str.
            label: int, the class.
            json: dict, such as a camera.
            images: dict of encoded bytes, the further images of the example
                by the ends of their names after the key ("labels.jpg").
    """

    name: str
    data: bytes | np.ndarray
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stored_bytes(self) -> int:
        """Size of `data`."""
        data = self.data
        return len(data) if isinstance(data, bytes) else data.nbytes

    def image(self, ending: str = "") -> bytes | np.ndarray:
        """One of the images, by the end of its name after the key.

        `ending` is in small letters, as "labels.jpg", or "" for `data`.
        KeyError if there is no such image.
        """
        if ending in ("", split_name(self.name)[1]):
            return self.data
        return self.fields.get("images", {})[ending]


class Source(Protocol):
    """Random access to the records of one place.

    An immutable list without a reading state: any thread, worker process (it
    is pickled) or host may read any record.
    """

    def __len__(self) -> int:
        """Number of records, at least 1."""
        ...

    def __getitem__(self, index: int) -> Record:
        """Record `index`; raises OSError if it cannot be read."""
        ...

    def fingerprint(self) -> str:
        """16 hex digits that change with the list of names or sizes.

        No image is read, and the place does not matter: the same folder
        mounted elsewhere has the same fingerprint.
        """
        ...


def split_name(name: str) -> tuple[str, str]:
    """Key and ending of a file: `a/b.seg.PNG` -> (`a/b`, `seg.png`)."""
    folder, slash, base = name.rpartition("/")
    key, _, ending = base.partition(".")
    return f"{folder}{slash}{key}", ending.lower()


def locate(ends: np.ndarray, index: int) -> tuple[int, int]:
    """Part of a record, and its place within the part.

    The parts lie one behind the other and end at `ends`. IndexError for an
    index outside [-n, n).
    """
    index = range(int(ends[-1]))[index]
    part = int(ends.searchsorted(index, side="right"))
    return part, index - int(ends[part - 1]) if part else index


def sidecar_fields(found: Mapping[str, bytes]) -> dict[str, Any]:
    """`Record.fields` of sidecars, by ending; invalid ones are ignored."""
    captions: list[str] = []
    label = value = None
    if "txt" in found:
        lines = found["txt"].decode("utf-8", "replace").splitlines()
        captions = [line.strip() for line in lines if line.strip()]
    with contextlib.suppress(ValueError):
        label = int(found["cls"]) if "cls" in found else None
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(found["json"]) if "json" in found else None
    fields = text_fields(captions, label)
    return fields | {"json": value} if isinstance(value, dict) else fields


def text_fields(captions: Any, label: Any) -> dict[str, Any]:
    """`Record.fields` of captions (a text, or several) and an integer label.

    Those of other types are ignored.
    """
    fields: dict[str, Any] = {}
    captions = [captions] if isinstance(captions, str) else captions
    if captions and all(isinstance(text, str) for text in captions):
        fields["captions"] = tuple(captions)
    if isinstance(label, int | np.integer):
        fields["label"] = int(label)
    return fields


def fingerprint_of(
    kind: str, names: Iterable[str], sizes: Iterable[int]
) -> str:
    """First 16 hex digits of a SHA-256 over the kind, names and sizes."""
    digest = hashlib.sha256(kind.encode())
    for name, size in zip(names, sizes, strict=True):
        digest.update(name.encode("utf-8", "surrogateescape"))
        digest.update(b"\0%d\0" % size)
    return digest.hexdigest()[:16]
