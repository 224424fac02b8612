"""Files that a measurement writes at its end, looked at before it starts."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from i2i_prior.errors import UserError
from i2i_prior.io import disk


def check_output(path: str | Path, ending: str = "") -> None:
    """Makes the folder of a file, and sees that it can be written.

    Args:
        path: of the file, there or not.
        ending: that its name must have, as ".npz".

    Raises:
        UserError: it has another one, is a folder, or cannot be written.
    """
    path = Path(path)
    if not path.name.lower().endswith(ending):
        raise UserError(f"{path} should end in {ending}; name it so.")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file.")
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass


def told(path: str | Path) -> contextlib.AbstractContextManager[None]:
    """Tells in a sentence that a file cannot be written.

    Raises:
        UserError: in place of an OSError.
    """
    mend = "choose another place, or make room there."
    return disk.told(path, mend)
