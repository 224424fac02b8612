"""SHA-256 of weights, to compare networks by content."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from i2i_prior.errors import UserError


def files_of(weights: str | Path) -> list[Path]:
    """Returns the path of a file or folder, or both of `ENCODER,DECODER`."""
    path = Path(weights)
    if path.exists():
        return [path]
    return [Path(part) for part in str(weights).split(",", 1)]


def hash_of(weights: str | Path) -> str:
    """Returns 64 hex digits of a file, a folder, or `ENCODER,DECODER`.

    A folder counts as the files right in it, an `.index.json` as its folder.
    UserError where a file cannot be read.
    """
    try:
        hashes = [_hash_path(part) for part in files_of(weights)]
    except OSError as error:
        raise UserError(
            f"cannot read the weights {weights} ({error.strerror})"
        ) from error
    return hashes[0] if len(hashes) == 1 else _hash_lines(hashes)


def _hash_path(path: Path) -> str:
    if path.name.endswith(".index.json"):
        path = path.parent
    if path.is_dir():
        return _hash_lines(
            f"{file.name} {_hash_file(file)}"
            for file in sorted(path.iterdir())
            if file.is_file() and not file.name.startswith(".")
        )
    return _hash_file(path)


def _hash_file(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _hash_lines(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
