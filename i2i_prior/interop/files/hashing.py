"""SHA-256 of weights: whether two names mean the same network."""

from __future__ import annotations

import hashlib
from pathlib import Path

from i2i_prior.errors import UserError


def hash_of(weights: str | Path) -> str:
    """64 hex digits of a file, a folder, or a pair `ENCODER,DECODER`.

    A folder counts as the files right in it, an `.index.json` as its folder.

    Raises:
      UserError: where it cannot be read.
    """
    path = Path(weights)
    if path.exists():
        parts = [path]
    else:
        parts = [Path(part) for part in str(weights).split(",")]
    try:
        found = [_of_part(part) for part in parts]
    except OSError as error:
        raise UserError(
            f"cannot read the weights {weights} ({error.strerror})"
        ) from error
    return found[0] if len(found) == 1 else _of_text(found)


def _of_part(path: Path) -> str:
    if path.name.endswith(".index.json"):
        path = path.parent
    if path.is_dir():
        files = sorted(
            file
            for file in path.iterdir()
            if file.is_file() and not file.name.startswith(".")
        )
        return _of_text([f"{file.name} {_of_file(file)}" for file in files])
    return _of_file(path)


def _of_file(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _of_text(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
