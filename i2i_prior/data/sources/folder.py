"""Images in a folder and below it."""

from __future__ import annotations

import contextlib
import os

import numpy as np

from i2i_prior.data import index_cache
from i2i_prior.data.record import Record, fingerprint_of
from i2i_prior.data.sources import places
from i2i_prior.data.sources.names import EXTENSIONS, Names, is_image_name
from i2i_prior.data.sources.sidecars import MAX_BYTES, SIDECARS, fields_of
from i2i_prior.errors import UserError

_Files = dict[str, int]  # relative path -> size in bytes


class FolderSource:
    """Every image below a folder, sorted by relative path.

    Hidden files and folders are passed over. Links to folders are followed,
    each real folder once, so a loop of links ends. `x.txt`, `x.cls` and
    `x.json` beside `x.jpg` become its fields, see `sidecars`.

    A local folder is listed once: the list is kept in the user's cache, and
    holds as long as no folder in it has another time of change, which is
    when files come or go. A file that is overwritten in place is read as it
    is now, but counts with its old size in the fingerprint.

    Args:
        place: path, or a URL that fsspec reads, as `gs://bucket/images`.

    Raises:
        UserError: the folder or one below it is missing or unreadable, or
            there is no image.
    """

    def __init__(self, place: str) -> None:
        self._root = places.absolute(place)
        listed = _list_remote if places.is_url(self._root) else _list_local
        arrays = listed(self._root)
        self.names = Names(arrays["text"], arrays["ends"])
        self._sizes, self._beside = arrays["sizes"], arrays["beside"]
        if not self.names:
            raise UserError(
                f"Folder {place} holds no image: put files ending in "
                f"{', '.join(EXTENSIONS)} in it or below it."
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Record:
        name = self.names[index]
        data = places.read(f"{self._root}/{name}")
        stem, bits = name.rpartition(".")[0], int(self._beside[index])
        beside = {
            ending: places.read(f"{self._root}/{stem}.{ending}", 0, MAX_BYTES)
            for bit, ending in enumerate(SIDECARS)
            if bits >> bit & 1
        }
        return Record(name, data, fields_of(beside))

    def fingerprint(self) -> str:
        return fingerprint_of("folder", self.names, self._sizes.tolist())


def _list_local(root: str) -> index_cache.Arrays:
    """The arrays of a `FolderSource`, from the cache where it holds."""
    if not os.path.isdir(root):
        raise UserError(
            f"Folder {root} does not exist: check the path after folder:."
        )
    kept = index_cache.load("folder", root, "")
    if kept is not None and _unchanged(root, kept):
        return kept
    files: _Files = {}
    folders = _walk(root, files)
    arrays = _arrays(files)
    if index_cache.settled(max(folders.values())):
        below = Names.of(folders)
        times = np.array(list(folders.values()), np.int64)
        more = {"folders": below.text, "folder_ends": below.ends}
        index_cache.save("folder", root, "", {**arrays, **more, "times": times})
    return arrays


def _unchanged(root: str, kept: index_cache.Arrays) -> bool:
    folders = Names(kept["folders"], kept["folder_ends"])
    try:
        return all(
            os.stat(os.path.join(root, folder)).st_mtime_ns == time
            for folder, time in zip(
                folders, kept["times"].tolist(), strict=True
            )
        )
    except OSError:
        return False


def _arrays(files: _Files) -> index_cache.Arrays:
    names = sorted(filter(is_image_name, files))
    sizes = np.fromiter((files[n] for n in names), np.int64, len(names))
    bits = np.zeros(len(names), np.uint8)
    if len(names) < len(files):
        for number, name in enumerate(names):
            stem = name.rpartition(".")[0]
            for bit, ending in enumerate(SIDECARS):
                bits[number] |= (f"{stem}.{ending}" in files) << bit
    packed = Names.of(names)
    return {
        "text": packed.text,
        "ends": packed.ends,
        "sizes": sizes,
        "beside": bits,
    }


def _walk(root: str, files: _Files) -> dict[str, int]:
    """Adds what lies below `root`; returns the folders' times of change."""
    seen: set[tuple[int, int]] = set()
    folders: dict[str, int] = {}
    pending = [""]
    while pending:
        relative = pending.pop()
        folder = os.path.join(root, relative)
        try:
            # Its time before its entries, so that no change is missed.
            status = os.stat(folder)
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(
                f"Folder {folder} cannot be read ({error.strerror}): allow "
                "reading it or move it out of the image folder."
            ) from error
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[relative] = status.st_mtime_ns
        below = []
        for entry in entries:
            name = f"{relative}{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                below.append(f"{name}/")
            elif _is_wanted(name) and entry.is_file():
                with contextlib.suppress(FileNotFoundError):  # just gone
                    files[name] = entry.stat().st_size
        pending.extend(reversed(below))
    return folders


def _list_remote(root: str) -> index_cache.Arrays:
    """As `_list_local`, but anew each time: nothing tells of a change."""
    system, path = places.filesystem(root)
    try:
        found = system.find(path, detail=True)
    # Each package has errors of its own.
    except Exception as error:
        raise UserError(
            f"Folder {root} cannot be listed ({places.one_line(error)}): check "
            "the address and your access to it."
        ) from error
    files: _Files = {}
    for full, info in found.items():
        name = full[len(path) :].lstrip("/")
        hidden = any(part.startswith(".") for part in name.split("/"))
        if _is_wanted(name) and not hidden:
            files[name] = info.get("size") or 0
    return _arrays(files)


def _is_wanted(name: str) -> bool:
    return is_image_name(name) or name.rpartition(".")[2] in SIDECARS
