"""Whether a file can be written, asked before hours of work for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from i2i_prior.errors import UserError


def check_place(file: str | os.PathLike[str]) -> None:
    """Looks whether `file` could be written; nothing is made for it.

    Its folder may be missing, for whoever writes makes it.

    Raises:
        UserError: it is a folder, or lies where nothing can be written.
    """
    path = Path(file)
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the name of a file")
    above = path.absolute().parents
    there = next(folder for folder in above if os.path.lexists(folder))
    if not there.is_dir():
        raise UserError(
            f"{there} is a file, and {path.name} needs a folder: give another "
            "place"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(
            f"folder {there} cannot be written to: give {path.name} another "
            "place"
        )


@contextmanager
def told(what: str, place: str | os.PathLike[str]) -> Iterator[None]:
    """Raises an OSError of what is written inside as UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{what} {place} cannot be written ({error.strerror or error}): "
            "free some space, or give another place"
        ) from error
