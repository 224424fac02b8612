"""A full disk, told in one sentence before or after the fact."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from i2i_prior.errors import FullDiskError, UserError

NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TEXTS = ("No space left", "RESOURCE_EXHAUSTED", "Disk quota")


def require_space(folder: Path, needed: int) -> None:
    """Makes a folder, and raises OSError where `needed` bytes do not fit."""
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, f"{needed} bytes are needed")


@contextlib.contextmanager
def told(
    path: str | Path, mend: str, full: type[UserError] = UserError
) -> Iterator[None]:
    """Tells in one sentence that a file cannot be written.

    Args:
      path: of the file, or of its folder.
      mend: what one does about it, as "choose another --out".
      full: raised where the disk is full; FullDiskError where whoever started
        this is to start it again.

    Raises:
      UserError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        kind = full if error.errno in NUMBERS else UserError
        why = error.strerror or error
        raise kind(f"cannot write {path} ({why}); {mend}") from error


@contextlib.contextmanager
def explained(folder: Path, latest: Callable[[], int | None]) -> Iterator[None]:
    """Turns a full disk, however it is spelled, into a FullDiskError.

    Args:
      folder: what is written, the run directory.
      latest: the step that a rerun would resume from, if any.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        full = getattr(error, "errno", None) in NUMBERS
        if not full and not any(text in str(error) for text in _TEXTS):
            raise
        step = latest()
        raise FullDiskError(
            f"no space left in {folder}; free some and run the same command "
            "again: it resumes from "
            + (f"step {step}" if step is not None else "the start")
        ) from error
