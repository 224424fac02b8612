"""Images in a folder and below it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from i2i_prior.data.record import Record, fingerprint_of
from i2i_prior.data.sources.names import EXTENSIONS, is_image_name
from i2i_prior.errors import UserError


class FolderSource:
    """Every image below a folder, sorted by relative path.

    Hidden files and folders are passed over. Links to folders are followed,
    each real folder once, so a loop of links ends.
    """

    def __init__(self, path: str) -> None:
        self._root = os.path.abspath(os.path.expanduser(path))
        if not os.path.isdir(self._root):
            raise UserError(
                f"Folder {path} does not exist: check the path after folder:."
            )
        self.names: Sequence[str] = sorted(_walk(self._root))
        if not self.names:
            raise UserError(
                f"Folder {path} holds no image: put files ending in "
                f"{', '.join(EXTENSIONS)} in it or below it."
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Record:
        name = self.names[index]
        with open(os.path.join(self._root, name), "rb") as file:
            return Record(name, file.read())

    def fingerprint(self) -> str:
        paths = (os.path.join(self._root, name) for name in self.names)
        sizes = (os.stat(path).st_size for path in paths)
        return fingerprint_of("folder", self.names, sizes)


def _walk(root: str) -> Iterator[str]:
    """Yields the relative paths of all images below `root`, depth first."""
    seen: set[tuple[int, int]] = set()
    pending = [""]
    while pending:
        relative = pending.pop()
        folder = os.path.join(root, relative)
        try:
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
        below = []
        for entry in entries:
            name = f"{relative}{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                below.append(f"{name}/")
            elif is_image_name(name) and entry.is_file():
                yield name
        pending.extend(reversed(below))
