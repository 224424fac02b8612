"""Cause of a program's end, from the last lines of its log."""

import os
import re
from pathlib import Path

_LONGEST = 300  # characters of a cause
_TAIL = 64 * 1024  # bytes of a log that are searched
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[@-_])")
_BAR = re.compile(r"\d+%\||\|[#█▏▎▍▌▋▊▉ ]+\||\bETA \d|it/s\b")
_EXCEPTION = re.compile(r"(?:\w+\.)*[A-Z]\w*(?::\s|$)")


def tail_cause(log: Path) -> str:
    """Cause of a program's end: one line of at most 300 characters.

    The last `error:` line, else the last line of the last exception, else the
    last line that is neither empty nor a progress bar, else "".
    """
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [_plain(line) for line in re.split(r"[\r\n]+", text)]
    lines = [line for line in lines if line and not _BAR.search(line)]
    errors = [line for line in lines if line.startswith("error: ")]
    if errors:
        return _cut(errors[-1].removeprefix("error: "))
    begins = [i for i, line in enumerate(lines) if line.startswith("Traceback")]
    # Code within it is indented; more lines of its message may follow.
    for line in lines[begins[-1] + 1 :] if begins else ():
        if _EXCEPTION.match(line):
            return _cut(line)
    return _cut(lines[-1].strip()) if lines else ""


def _plain(text: str) -> str:
    """A line without the escapes and control characters of terminals."""
    text = _ESCAPES.sub("", text)
    return "".join(c if c.isprintable() else " " for c in text).rstrip()


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
