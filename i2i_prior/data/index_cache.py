"""Indices of folders and archives, kept from one start to the next.

They lie below the user's cache folder. A cache is never needed: what cannot
be written is not kept, and what cannot be read is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from i2i_prior.io.cache_dir import user_cache

Arrays = dict[str, np.ndarray]

_VERSION = 2  # of what is stored; an index of another version is not read
# A change so soon after the last one may leave the time as it was.
_SETTLED = 2 * 10**9  # ns
_LEFT_OVER = 86_400  # seconds; nobody writes an index for so long
_STAMP = "stamp"


def load(kind: str, place: str, stamp: str) -> Arrays | None:
    """The index of `place`, or None where there is none that is whole.

    Args:
        kind: of index, such as "tar".
        place: absolute path or URL.
        stamp: as it was given to `save`; another one means that the place
            has changed.
    """
    try:
        with np.load(_file(kind, place), allow_pickle=False) as stored:
            # Every array is read to its end, which checks its sum.
            arrays = {name: stored[name] for name in stored.files}
        wanted = _text(f"{_VERSION} {place} {stamp}")
        if not np.array_equal(arrays.pop(_STAMP), wanted):
            return None
        return arrays
    # Damaged bytes make zipfile and NumPy raise nearly anything.
    except Exception:
        return None


def save(
    kind: str, place: str, stamp: str, arrays: Mapping[str, np.ndarray]
) -> None:
    """Keeps an index; does nothing where the cache cannot be written."""
    path = _file(kind, place)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        # Beside, then renamed: two processes may index the same place.
        descriptor, beside = tempfile.mkstemp(".part", "", path.parent)
        try:
            with open(descriptor, "wb") as file:
                stored = {_STAMP: _text(f"{_VERSION} {place} {stamp}")}
                np.savez(file, **stored, **arrays)  # type: ignore[arg-type]
            os.replace(beside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise


def settled(mtime_ns: int, before_ns: int) -> bool:
    """Whether a time of change is old enough to tell of the next change.

    Args:
        mtime_ns: the time of change.
        before_ns: `time.time_ns()` before it was looked at. Taken later, it
            would hide a change that came soon after the look.
    """
    return mtime_ns < before_ns - _SETTLED


def _sweep(folder: Path) -> None:
    """Removes what processes that were killed have left half-written."""
    for part in folder.glob("*.part"):
        with contextlib.suppress(OSError):
            if part.stat().st_mtime < time.time() - _LEFT_OVER:
                part.unlink()


def _file(kind: str, place: str) -> Path:
    digest = hashlib.sha256(place.encode("utf-8", "surrogateescape"))
    name = f"{kind}-{digest.hexdigest()[:32]}.npz"
    return user_cache("index", name)


def _text(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)
