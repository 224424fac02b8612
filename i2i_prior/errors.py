"""The one exception that is meant for the person at the keyboard."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: one sentence that says what is wrong and how to mend it.

    The command line prints the sentence without a traceback and exits `code`.
    """

    code = 1


class FullDiskError(UserError):
    """No space left: the same command goes on once there is some."""

    code = 74  # sysexits.h, EX_IOERR


CRASHED = 70  # exit code (sysexits.h) of an error that is nobody's input
