"""Exceptions that the command line shows as one sentence, and exit codes."""

from collections.abc import Collection


class UserError(Exception):
    """Wrong input: one sentence with the problem and the way out.

    The command line prints it without a traceback and exits with `code`.
    """

    code = 1


class FullDiskError(UserError):
    """No space left on a disk: the same command resumes once there is some."""

    code = 74  # sysexits.h, EX_IOERR


def check_known(what: str, name: str, known: Collection[str]) -> None:
    """Raises UserError unless `name` is one of the known ones."""
    if name not in known:
        raise UserError(
            f"{what} {name!r} is unknown; choose one of {', '.join(known)}"
        )


CRASHED = 70  # exit code of other errors; sysexits.h, EX_SOFTWARE
