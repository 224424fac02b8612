"""Exceptions that the command line shows as one sentence, and exit codes."""


class UserError(Exception):
    """Wrong input: one sentence with the problem and the way out.

    The command line prints it without a traceback and exits with `code`.
    """

    code = 1


class FullDiskError(UserError):
    """No space left on a disk: the same command resumes once there is some."""

    code = 74  # sysexits.h, EX_IOERR


CRASHED = 70  # exit code of other errors; sysexits.h, EX_SOFTWARE
