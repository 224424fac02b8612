"""Errors of files and disks as one sentence, before or after the fact."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from i2i_prior.errors import FullDiskError, UserError
from i2i_prior.io.files import local_path

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TEXTS = ("No space left", "RESOURCE_EXHAUSTED", "Disk quota")


def require_space(folder: Path, needed: int) -> None:
    """Makes a folder, and raises OSError where `needed` bytes do not fit."""
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, f"{needed} bytes are needed")


def check_output(path: str | os.PathLike[str], ending: str = "") -> None:
    """Checks that a file could be written, before hours of work for it.

    Nothing is made: a missing folder is made by whoever writes the file.

    Raises:
      UserError: it has another ending (as ".npz"), is a folder or a URL, or
        lies where nothing can be written.
    """
    path = local_path(path)
    if not path.name.lower().endswith(ending):
        raise UserError(f"{path} should end in {ending}; name it so.")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file.")
    above = path.absolute().parents
    there = next(folder for folder in above if os.path.lexists(folder))
    if not there.is_dir():
        raise UserError(
            f"{there} is a file, and {path.name} needs a folder; give another "
            "place."
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(
            f"folder {there} cannot be written to; give {path.name} another "
            "place."
        )


@contextlib.contextmanager
def write_errors(
    path: str | os.PathLike[str], remedy: str = "give another place"
) -> Iterator[None]:
    """Turns an OSError of the code inside into a UserError of one sentence.

    That of a full disk is a FullDiskError, whose exit code says that the same
    command can go on once there is space.

    Args:
      path: of the file, or of its folder.
      remedy: the second half of the sentence, as "choose another --out"; on a
        full disk freeing space is offered as well.
    """
    try:
        yield
    except OSError as error:
        kind: type[UserError] = UserError
        advice = remedy
        if error.errno in DISK_FULL:
            kind, advice = FullDiskError, f"free some space, or {remedy}"
        why = error.strerror or error
        raise kind(f"cannot write {path} ({why}); {advice}") from error


@contextlib.contextmanager
def full_disk_errors(
    folder: Path, latest: Callable[[], int | None]
) -> Iterator[None]:
    """Turns a full disk, however it is spelled, into a FullDiskError.

    `latest` gives the step that a rerun of this folder would resume from.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        full = getattr(error, "errno", None) in DISK_FULL
        if not full and not any(text in str(error) for text in _TEXTS):
            raise
        step = latest()
        raise FullDiskError(
            f"no space left in {folder}; free some and run the same command "
            "again: it resumes from "
            + (f"step {step}" if step is not None else "the start")
        ) from error


def disk_error(error: BaseException, path: Path) -> OSError | None:
    """The OSError that an error of a C++ library says in words, if any."""
    if isinstance(error, OSError):
        return error
    for number in DISK_FULL:
        if os.strerror(number) in str(error):
            return OSError(number, os.strerror(number), str(path))
    return None
