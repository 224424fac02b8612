"""On-disk cache of the indices of folders and archives.

It is in the user's cache folder, and optional: an index that cannot be
written is not kept, one that cannot be read is made again.
"""

import contextlib
import hashlib
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from i2i_prior.io.files import atomic_path, user_cache

Arrays = dict[str, np.ndarray]

_VERSION = 2  # of the stored arrays; other versions are not read
# A second change within this time may leave the time of change as it is.
_SETTLED = 2 * 10**9  # ns
_LEFT_OVER = 86_400  # seconds; writing an index never takes so long
_STAMP = "stamp"


def load(kind: str, place: str, stamp: str) -> Arrays | None:
    """The index of `place`, or None if there is no valid one.

    `kind` is such as "tar", `place` an absolute path or URL. A `stamp` other
    than that given to `save` means that the place has changed.
    """
    try:
        with np.load(_file(kind, place), allow_pickle=False) as stored:
            # Every array is read to its end, which checks its CRC.
            arrays = {name: stored[name] for name in stored.files}
        wanted = _text(f"{_VERSION} {place} {stamp}")
        same = np.array_equal(arrays.pop(_STAMP), wanted)
        return arrays if same else None
    # Damaged bytes make zipfile and NumPy raise nearly anything.
    except Exception:
        return None


def save(
    kind: str, place: str, stamp: str, arrays: Mapping[str, np.ndarray]
) -> None:
    """Keeps an index; does nothing if the cache cannot be written."""
    path = _file(kind, place)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob("*.part"):  # by processes that were killed
            with contextlib.suppress(OSError):  # another may remove it as well
                if left.stat().st_mtime < time.time() - _LEFT_OVER:
                    left.unlink()
        with atomic_path(path) as part, part.open("wb") as file:
            stored = {_STAMP: _text(f"{_VERSION} {place} {stamp}")}
            np.savez(file, **stored, **arrays)  # type: ignore[arg-type]


def settled(mtime_ns: int, before_ns: int) -> bool:
    """Returns True if the next change is certain to alter a time of change.

    `before_ns` is `time.time_ns()` before `mtime_ns` was read. Taken later, it
    would hide a change soon after the reading.
    """
    return mtime_ns < before_ns - _SETTLED


def _file(kind: str, place: str) -> Path:
    digest = hashlib.sha256(place.encode("utf-8", "surrogateescape"))
    return user_cache("index", f"{kind}-{digest.hexdigest()[:32]}.npz")


def _text(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)
