"""A record is read, is damaged, or stops the work, which may go on later.

Damage stays, so such a record is dropped. A disk or a network that fails will
be there again: what it did not give is no reason to lose a record for good.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator

from i2i_prior.data.record import Record, Source
from i2i_prior.errors import UserError

_PAUSES = (0.1, 1.0)  # seconds before a record is asked for again
# Libraries say in words what the system told them.
_SYSTEM = tuple(
    os.strerror(number)
    for number in (
        *(errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.EACCES),
        *(errno.EPERM, errno.ENOMEM, errno.ETIMEDOUT, errno.ECONNRESET),
        *(errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH),
    )
)
# A path that leads nowhere, as after a rename: it is gone.
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR)
# Packages of file systems, whose errors tell nothing of what a file holds.
_REMOTE = (
    *("aiohttp", "aiobotocore", "azure", "botocore", "gcsfs", "google"),
    *("huggingface_hub", "requests", "s3fs", "urllib3", "httpx"),
)


class UnreadableError(Exception):
    """A record that is damaged or gone; `reason` completes "NAME ..."."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def read(source: Source, index: int, name: str) -> Record:
    """Record `index`, asked for three times where the system fails.

    Args:
        name: of the record, for the complaint.

    Raises:
        UnreadableError: it is damaged or gone.
        UserError: the disk, the network or a permission is in the way.
    """
    for pause in (*_PAUSES, None):
        try:
            return source[index]
        except OSError as error:
            why = error.strerror or error
            if _stays(error):
                raise UnreadableError(f"cannot be read ({why})") from error
            if pause is None:
                raise UserError(
                    f"{name} of the source cannot be read ({why}), though "
                    "nothing says that it is damaged: mend that and run the "
                    "same command again, which goes on"
                ) from error
            time.sleep(pause)
    raise AssertionError


def _stays(error: OSError) -> bool:
    """Whether it would be the same another time."""
    chain = list(_chain(error))
    if any(isinstance(e, FileNotFoundError) for e in chain):
        return True
    if error.errno in _NOWHERE:
        return True
    return not any(map(_of_the_system, chain))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _of_the_system(error: BaseException) -> bool:
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if type(error).__module__.partition(".")[0] in _REMOTE:
        return True
    # Sources give damage this number, with words of their own.
    number = error.errno if isinstance(error, OSError) else None
    if number not in (None, errno.EIO):
        return True
    return any(words in str(error) for words in _SYSTEM)
