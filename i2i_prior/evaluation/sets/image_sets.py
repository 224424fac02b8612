"""Sets of images to measure: folders, archives, SPECs and sample files.

A set is a list of uint8 images in an order that depends only on the names.
Images that cannot be read are named and counted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from i2i_prior.data.broken import open_picture
from i2i_prior.data.crops import center_crop
from i2i_prior.data.decode_image import BrokenImage
from i2i_prior.data.record import Source
from i2i_prior.data.sources import places
from i2i_prior.data.sources.folder import FolderSource
from i2i_prior.data.sources.registry import SCHEMES, open_source
from i2i_prior.errors import UserError
from i2i_prior.evaluation.sets.archives import SampleFile, ZipSource
from i2i_prior.evaluation.sets.collect import THREADS, mixed_sizes
from i2i_prior.io.threads import map_in_order

_AHEAD = 64  # images decoded before they are asked for
_WIDEST = 8192  # pixels of a side; more would fill the memory
_NAMED = 3  # broken images that a message names


@dataclass
class ImageSet:
    """Images to measure."""

    place: str  # as it was given
    source: Source
    indices: np.ndarray  # of the measured images, in order
    # Side of the square that each is cropped and resized to, as ADM does it.
    size: int | None = None
    skip_broken: bool = False  # leaves out images that cannot be read
    # "name (reason)" of these, once `batches` is through.
    broken: list[str] = field(default_factory=list)
    # Indices of the others, in the order of the rows.
    used: list[int] = field(default_factory=list)
    _shape: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def share(self, process: int, processes: int) -> ImageSet:
        """Share of a process: every `processes`-th image from its own on."""
        return replace(self, indices=self.indices[process::processes])

    def batches(self) -> Iterator[np.ndarray]:
        """Images uint8 (n, H, W, 3), decoded in threads, in order.

        UserError for images of several sizes, no readable image, or an image
        that cannot be read, without `skip_broken`.
        """
        self.broken, self.used = [], []
        self.shape()
        for index, found in zip(
            self.indices.tolist(), self._each(self._pixels), strict=True
        ):
            if isinstance(found, BrokenImage):
                self.broken.append(f"{self._name(index)} ({found.reason})")
            # After a broken image the rest is read only to count them all.
            elif self.skip_broken or not self.broken:
                self.used.append(index)
                yield found[None]
        if self.broken and not (self.skip_broken and self.used):
            named = ", ".join(self.broken[:_NAMED])
            raise UserError(
                f"{len(self.broken)} of {len(self)} images of {self.place} "
                f"cannot be used, the first being {named}; repair or remove "
                "them, or give --skip-broken to measure without them."
            )

    def shape(self) -> tuple[int, int] | None:
        """Height and width of all images; None where none can be read.

        Reads the headers, so that no hour of work ends in a refusal: UserError
        where the images are of several sizes.
        """
        if self.size is not None:
            return self.size, self.size
        if self._shape is None:
            indices = self.indices.tolist()
            if isinstance(self.source, SampleFile):
                indices = indices[:1]
            for found in map_in_order(self._header, indices, _AHEAD, THREADS):
                first = self._shape = self._shape or found
                if first is not None and found not in (None, first):
                    raise mixed_sizes(first, found)
        return self._shape

    def image(self, row: int) -> np.ndarray:
        """Image of a row that `batches` has yielded, (H, W, 3) uint8."""
        pixels = self._pixels(self.used[row])
        assert isinstance(pixels, np.ndarray)
        return pixels

    def captions(self) -> dict[int, str]:
        """First caption of each image, by index; UserError where one lacks."""
        found = {}
        for index, texts in zip(
            self.indices.tolist(), self._each(self._captions), strict=True
        ):
            if not texts:
                raise UserError(
                    f"{self._name(index)} of {self.place} has no caption; "
                    "give a SPEC of images with captions, as in a .txt for "
                    "each."
                )
            found[index] = texts[0]
        return found

    def state(self) -> str:
        """Hash of the set, 64 hex digits, without decoding.

        Over the names, sizes, times and inodes of local files; over all
        stored bytes of other sources.
        """
        digest = hashlib.sha256(repr((self.size, self.skip_broken)).encode())
        digest.update(np.asarray(self.indices, np.int64).tobytes())
        files = local_files(self.place, self.source)
        for path in files:
            status = os.stat(path)
            # The time of a change of the file's entry cannot be set back.
            facts = (
                *(path, status.st_size, status.st_ino),
                *(status.st_mtime_ns, status.st_ctime_ns),
            )
            digest.update(repr(facts).encode("utf-8", "surrogateescape"))
        if not files:
            for data in self._each(self._stored):
                digest.update(b"%d " % len(data))
                digest.update(data)
        return digest.hexdigest()

    def _name(self, index: int) -> str:
        try:
            return self.source[index].name
        except OSError:
            return f"image {index}"

    def _each(self, function: Callable) -> Iterator:
        return map_in_order(function, self.indices.tolist(), _AHEAD, THREADS)

    def _header(self, index: int) -> tuple[int, int] | None:
        try:
            picture = open_picture(self.source, index)
        except BrokenImage:
            return None  # reported when it is decoded
        return picture.height, picture.width

    def _captions(self, index: int) -> tuple[str, ...]:
        try:
            return self.source[index].fields.get("captions", ())
        except OSError:
            return ("",)  # reported when it is decoded

    def _stored(self, index: int) -> bytes:
        try:
            data = self.source[index].data
        except OSError:
            return b"unreadable"
        if isinstance(data, np.ndarray):
            return repr(data.shape).encode() + data.tobytes()
        return data

    def _pixels(self, index: int) -> np.ndarray | BrokenImage:
        try:
            pixels = open_picture(self.source, index).pixels()
        except BrokenImage as broken:
            return broken
        return pixels if self.size is None else center_crop(pixels, self.size)


def open_images(
    place: str | os.PathLike[str],
    *,
    size: int | None = None,
    num: int | None = None,
    skip_broken: bool = False,
) -> ImageSet:
    """Opens a set of images, or `num` of them, spread evenly over it.

    The place is a folder, a .tar or .zip archive, an .npz with `arr_0` (as
    ADM's samplers write it), or a SPEC, see `open_source`. UserError where
    nothing is there, it is no set of images, or it has fewer than `num`.
    """
    source = _open_source(str(place))
    if size is not None and not 1 <= size <= _WIDEST:
        raise UserError(
            f"--size is {size}; give a side of 1 to {_WIDEST} pixels."
        )
    total = len(source)
    if num is not None and not 1 <= num <= total:
        raise UserError(
            f"--num is {num}, but {place} has {total} images; give a number "
            f"from 1 to {total}."
        )
    count = total if num is None else num
    indices = np.arange(count) * total // count
    return ImageSet(str(place), source, indices, size, skip_broken)


def _open_source(place: str) -> Source:
    scheme = place.partition(":")[0]
    if scheme in SCHEMES and not os.path.exists(place):
        return open_source(place)
    path = places.absolute(place)
    if os.path.isdir(path):
        return open_source(f"folder:{path}")
    opener = _BY_ENDING.get(Path(path).suffix.lower())
    if not os.path.exists(path):
        raise UserError(
            f"there is nothing at {place}; give a folder, a .tar or .zip "
            "archive, an .npz, or a SPEC such as folder:/data/images."
        )
    if opener is None:
        raise UserError(
            f"{place} is no set of images; give a folder, a .tar or .zip "
            "archive, an .npz with arr_0, or a SPEC."
        )
    return opener(path)


_BY_ENDING: dict[str, Callable[[str], Source]] = {
    ".tar": lambda path: open_source(f"tar:{path}"),
    ".zip": ZipSource,
    ".npz": SampleFile,
}


def local_files(place: str, source: Source) -> list[str]:
    """Files on this machine that hold all of the source.

    [] for places other than a file, a folder, or archives.
    """
    path = places.absolute(place)
    if os.path.isfile(path):
        return [path]
    scheme, _, rest = place.partition(":")
    root = path if os.path.isdir(path) else places.absolute(rest)
    if places.is_url(root) or "#" in place:
        return []
    if scheme == "tar":
        return places.find(root, "tar")
    if os.path.isdir(root) and isinstance(source, FolderSource):
        return [os.path.join(root, name) for name in source.names]
    return []
