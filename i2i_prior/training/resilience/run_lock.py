"""Lock of a run directory: one trainer at a time."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from i2i_prior.distributed import runtime
from i2i_prior.errors import UserError
from i2i_prior.io import locks

_FILE = ".train.lock"
_GRACE = 600.0  # seconds that a predecessor is given to save and end


@contextlib.contextmanager
def run_lock(workdir: Path) -> Iterator[None]:
    """Keeps other trainers out of a run directory; the first process locks.

    A trainer that has been told to stop is waited for, and so is any where
    SLURM has queued this job again. The lock ends with its process, however
    that dies; where a file system has no locks there is no protection. A start
    that fails leaves no folder behind.

    Raises:
      UserError: another process trains there.
    """
    made = [p for p in (workdir, *workdir.parents) if not p.exists()]
    lock = _acquire(workdir / _FILE) if runtime.is_primary() else None
    try:
        yield
    finally:
        if lock is not None:
            with contextlib.suppress(OSError):  # of a disk that has gone away
                (workdir / _FILE).unlink(missing_ok=True)
                for folder in made:  # those that are empty
                    folder.rmdir()
            os.close(lock)


def announce_leaving(workdir: Path) -> None:
    """Notes in the lock that this trainer was told to stop."""
    if runtime.is_primary():
        locks.announce_leaving(workdir / _FILE)


def _acquire(file: Path) -> int | None:
    """Descriptor of the lock; None where it cannot be made, since the fault of
    the folder shows when the run is written."""
    try:
        lock = locks.acquire(file)
        if lock is None and (locks.is_leaving(file) or _is_queued_again()):
            runtime.print_once(
                f"waiting for {locks.holder(file)} to save and leave"
            )
            lock = locks.acquire(file, _GRACE)
    except UserError:
        return None
    if lock is None:
        raise UserError(
            f"{locks.holder(file)} trains in {file.parent}: stop it or wait "
            "for its end, or choose another workdir"
        )
    return lock


def _is_queued_again() -> bool:
    return os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
