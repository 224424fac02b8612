"""Reading of records that tells damage from failures of the system.

Damage is permanent, so such a record is dropped. A disk or a network that
fails may work again later: the command stops, and no record is lost.
"""

from __future__ import annotations

import errno
import os
import time

from i2i_prior.data.decode_image import BrokenImage
from i2i_prior.data.record import Record, Source
from i2i_prior.errors import UserError

_PAUSES = (0.1, 1.0)  # seconds before a record is read again
# Libraries quote the messages of the system.
_SYSTEM = tuple(
    os.strerror(number)
    for number in (
        *(errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.EACCES),
        *(errno.EPERM, errno.ENOMEM, errno.ETIMEDOUT, errno.ECONNRESET),
        *(errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH),
    )
)
# Errors of a path that leads nowhere, as after a rename.
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR)
# Packages of remote file systems, whose errors are not about content.
_REMOTE = (
    *("aiohttp", "aiobotocore", "azure", "botocore", "gcsfs", "google"),
    *("huggingface_hub", "requests", "s3fs", "urllib3", "httpx"),
)


def read(source: Source, index: int, name: str) -> Record:
    """Record `index`, read three times if the system fails.

    Args:
        name: of the record, for the message.

    Raises:
        BrokenImage: it is damaged or gone.
        UserError: the disk, the network or a permission is in the way.
    """
    for pause in (*_PAUSES, None):
        try:
            return source[index]
        except OSError as error:
            why = error.strerror or error
            if _is_permanent(error):
                raise BrokenImage(f"cannot be read ({why})") from error
            if pause is None:
                raise UserError(
                    f"{name} of the source cannot be read ({why}), though "
                    "nothing shows that it is damaged: repair that and run the "
                    "same command again, which goes on"
                ) from error
            time.sleep(pause)
    raise AssertionError


def _is_permanent(error: OSError) -> bool:
    """Returns True for damage and missing files."""
    chain: list[BaseException] = [error]
    while cause := chain[-1].__cause__:
        chain.append(cause)
    gone = any(isinstance(each, FileNotFoundError) for each in chain)
    return gone or error.errno in _NOWHERE or not any(map(_of_system, chain))


def _of_system(error: BaseException) -> bool:
    # Sources raise damage with EIO and their own messages.
    number = error.errno if isinstance(error, OSError) else None
    return (
        isinstance(error, TimeoutError | ConnectionError)
        or type(error).__module__.partition(".")[0] in _REMOTE
        or number not in (None, errno.EIO)
        or any(words in str(error) for words in _SYSTEM)
    )
