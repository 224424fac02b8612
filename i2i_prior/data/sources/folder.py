"""Images in a folder and its subfolders."""

import contextlib
import errno
import itertools
import os
import time
from collections.abc import Collection, Iterator

import numpy as np

from i2i_prior.data import index_cache
from i2i_prior.data.record import (
    MAX_SIDECAR,
    SIDECARS,
    Record,
    fingerprint_of,
    sidecar_fields,
    split_name,
)
from i2i_prior.data.sources import places
from i2i_prior.data.sources.names import EXTENSIONS, Names, is_image_name
from i2i_prior.errors import UserError
from i2i_prior.io.threads import map_in_order

# Errors of a missing file, and of a link to nowhere, itself or below a file.
_NOWHERE = {errno.ENOENT, errno.ELOOP, errno.ENOTDIR}
_THREADS = 16  # network file systems answer many at once
_CHUNK = 4096  # files that a thread stats at a time
_GONE = -1  # size of a file that was removed after the listing


class FolderSource:
    """Every image below a folder, sorted by relative path.

    Hidden files and folders are skipped. Links to folders are followed, each
    real folder once, so that a loop of links ends. `x.txt`, `x.cls` and
    `x.json` become fields of `x.jpg`, see `sidecar_fields`.

    A local folder is listed once: the list is kept in the user's cache, and
    is valid until the time of change of a folder in it differs, that is,
    until files are added or removed. Files overwritten in place are read in
    their present state.

    With `image`, the images of a folder that agree up to the first dot of their
    names are one record, as in tar archives: `x.photo.jpg` with
    `image="photo.jpg"` has `x.labels.jpg` among its further images. With ""
    every image is a record.

    `place` is a path, or a URL that fsspec reads, as `gs://bucket/images`.
    UserError if the folder or one below it is missing or unreadable, or there
    is no image.
    """

    def __init__(self, place: str, image: str = "") -> None:
        self._root = places.absolute(place)
        listed = _list_remote if places.is_url(self._root) else _list_local
        arrays = listed(self._root)
        self.names = Names(arrays["text"], arrays["ends"])
        self._bits = arrays["beside"]
        # None on this machine, where each file can be asked.
        self._sizes: np.ndarray | None = arrays.get("sizes")
        self._further: list[list[str]] | None = None
        if image:
            self._group(image.lower())
        if not self.names:
            what = f"no image {image}" if image else "no image"
            raise UserError(
                f"Folder {place} holds {what}: put files ending in "
                f"{image or ', '.join(EXTENSIONS)} in it or below it."
            )

    def _group(self, image: str) -> None:
        """Keeps the records of one ending; the others are their images."""
        names = [(name, *split_name(name)) for name in self.names]
        by_key: dict[str, list[str]] = {}
        for name, key, _ in names:
            by_key.setdefault(key, []).append(name)
        chosen = [n for n, (*_, ending) in enumerate(names) if ending == image]
        self._further = [
            [other for other in by_key[names[n][1]] if other != names[n][0]]
            for n in chosen
        ]
        self.names = Names.of(names[n][0] for n in chosen)
        self._bits = self._bits[chosen]
        if self._sizes is not None:
            self._sizes = self._sizes[chosen]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Record:
        name = self.names[index]
        data = places.read(f"{self._root}/{name}")
        stem, bits = name.rpartition(".")[0], int(self._bits[index])
        sidecars = {
            ending: places.read(f"{self._root}/{stem}.{ending}", 0, MAX_SIDECAR)
            for bit, ending in enumerate(SIDECARS)
            if bits >> bit & 1
        }
        fields = sidecar_fields(sidecars)
        if self._further is not None and self._further[index]:
            fields["images"] = {
                split_name(other)[1]: places.read(f"{self._root}/{other}")
                for other in self._further[index]
            }
        return Record(name, data, fields)

    def fingerprint(self) -> str:
        """See `Source`; each local file is stated again, in threads.

        So hosts agree, with or without a cached list. UserError if a file
        cannot be stated.
        """
        known = self._sizes
        sizes = self._sizes_now() if known is None else known.tolist()
        return fingerprint_of("folder", self.names, sizes)

    def _sizes_now(self) -> Iterator[int]:
        """Sizes of the files in bytes, `_GONE` for missing ones."""
        names = iter(self.names)
        chunks = iter(lambda: list(itertools.islice(names, _CHUNK)), [])

        def stat(chunk: list[str]) -> list[int]:
            return [_size_now(f"{self._root}/{name}") for name in chunk]

        sizes = map_in_order(stat, chunks, 2 * _THREADS, _THREADS)
        return itertools.chain.from_iterable(sizes)


def _pass_over(path: str, error: OSError) -> None:
    """Raises a UserError unless a path leads nowhere."""
    if error.errno not in _NOWHERE:
        raise UserError(
            f"Path {path} cannot be read ({error.strerror}): allow reading "
            "it or move it out of the image folder."
        ) from error


def _size_now(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError as error:
        _pass_over(path, error)
        return _GONE


def _list_local(root: str) -> index_cache.Arrays:
    """The arrays of a `FolderSource`, from the cache if that is valid."""
    if not os.path.isdir(root):
        raise UserError(
            f"Folder {root} does not exist: check the path after folder:."
        )
    kept = index_cache.load("folder", root, "")
    if kept is not None and _unchanged(root, kept):
        return kept
    before = time.time_ns()
    files: set[str] = set()
    folders = _walk(root, files)
    arrays = _arrays(files)
    if folders and index_cache.settled(max(folders.values()), before):
        below = Names.of(folders)
        times = np.array(list(folders.values()), np.int64)
        more = {"folders": below.text, "folder_ends": below.ends}
        index_cache.save("folder", root, "", {**arrays, **more, "times": times})
    return arrays


def _unchanged(root: str, kept: index_cache.Arrays) -> bool:
    folders = Names(kept["folders"], kept["folder_ends"])
    times = zip(folders, kept["times"].tolist(), strict=True)
    with contextlib.suppress(OSError):
        return all(os.stat(f"{root}/{f}").st_mtime_ns == t for f, t in times)
    return False


def _arrays(files: Collection[str]) -> index_cache.Arrays:
    names = sorted(filter(is_image_name, files))
    bits = np.zeros(len(names), np.uint8)
    if len(names) < len(files):
        for number, name in enumerate(names):
            stem = name.rpartition(".")[0]
            for bit, ending in enumerate(SIDECARS):
                bits[number] |= (f"{stem}.{ending}" in files) << bit
    packed = Names.of(names)
    return {"text": packed.text, "ends": packed.ends, "beside": bits}


def _walk(root: str, files: set[str]) -> dict[str, int]:
    """Adds the files below `root`; returns the folders' times of change."""
    seen: set[tuple[int, int]] = set()
    folders: dict[str, int] = {}
    pending = [""]
    while pending:
        relative = pending.pop()
        folder = os.path.join(root, relative)
        try:
            # Stated before it is listed, so that no change is missed.
            status = os.stat(folder)
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            _pass_over(folder, error)
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[relative] = status.st_mtime_ns
        for entry in reversed(entries):
            name = f"{relative}{entry.name}"
            if entry.name.startswith("."):
                continue
            try:
                if entry.is_dir():
                    pending.append(f"{name}/")
                elif _is_wanted(name) and entry.is_file():
                    files.add(name)
            except OSError as error:
                _pass_over(entry.path, error)
    return folders


def _list_remote(root: str) -> index_cache.Arrays:
    """The same of a URL, listed each time: its changes are not known."""
    system, path = places.filesystem(root)
    with places.listing(f"Folder {root}"):
        found = system.find(path, detail=True)
    files: dict[str, int] = {}  # relative path -> size in bytes
    for full, info in found.items():
        name = full[len(path) :].lstrip("/")
        hidden = any(part.startswith(".") for part in name.split("/"))
        if _is_wanted(name) and not hidden:
            files[name] = info.get("size") or 0
    arrays = _arrays(files)
    names = Names(arrays["text"], arrays["ends"])
    sizes = [files[name] for name in names]
    return {**arrays, "sizes": np.array(sizes, np.int64)}


def _is_wanted(name: str) -> bool:
    return is_image_name(name) or name.rpartition(".")[2] in SIDECARS
