"""The images in a zip archive."""

from __future__ import annotations

import hashlib
import zipfile

from i2i_prior.data.record import Record
from i2i_prior.data.sources.names import EXTENSIONS, is_image_name
from i2i_prior.errors import UserError


class ZipSource:
    """The images in a zip archive, sorted by name.

    Args:
        path: of the archive.

    Raises:
        UserError: it cannot be read, or holds no image.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                names = sorted(filter(is_image_name, archive.namelist()))
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(
                f"archive {path} cannot be read ({error}); copy it again."
            ) from error
        if not names:
            raise UserError(
                f"archive {path} holds no image: its members should end in "
                f"{', '.join(EXTENSIONS)}."
            )
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Record:
        name = self.names[index]
        try:
            # Opened anew: one that is open serves one thread at a time.
            with zipfile.ZipFile(self._path) as archive:
                return Record(name, archive.read(name))
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise OSError(5, str(error)) from error

    def fingerprint(self) -> str:
        """As every source."""
        text = "\n".join(self.names).encode("utf-8", "surrogateescape")
        return hashlib.sha256(text).hexdigest()[:16]
