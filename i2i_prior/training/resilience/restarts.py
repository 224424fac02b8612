"""Restarts of a crashed run on one machine: `i2i-prior train --restarts N`.

The run is a child process: what kills it (a driver, memory, a bug in a
library) leaves this process alive. A cluster's scheduler does the same with
the exit code 75.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from i2i_prior.checkpoint.run_dir import newest_checkpoint
from i2i_prior.io import child_process

# Done, a mistake of the user (argparse uses 2), diverged, a full disk,
# stopped: another start would end the same way, or was not asked for.
FINAL = (0, 1, 2, 64, 65, 74, 75)
_MAX_WAIT = 300.0  # seconds between two starts


def supervise(
    command: Sequence[str],
    workdir: Path,
    restarts: int,
    *,
    first_wait: float = 5.0,
) -> int:
    """Runs a command, again after each crash, up to `restarts` more times.

    TERM, USR1, USR2 and Ctrl-C are passed on to the child; after one it is
    not started again. Two crashes without a new checkpoint between them end
    the run: a third would follow.

    The command trains in `workdir`, and resumes there. `first_wait` is in
    seconds, before the first restart; each crash doubles it. Returns the
    child's last exit code; 128 + its number after a signal.
    """
    before: int | None = None  # the newest checkpoint at the crash before
    for attempt in range(restarts + 1):
        ended = child_process.run(command)
        code = ended.shell_code
        if ended.signalled or code in FINAL:
            return code
        newest = newest_checkpoint(workdir)
        how = f"exit code {code}"
        if code >= 128:
            how = child_process.signal_name(code - 128)
        at = "no checkpoint" if newest is None else f"checkpoint {newest}"
        if attempt and (newest or 0) <= (before or 0):
            _log(
                f"the run crashed again ({how}) with no new checkpoint since "
                f"the crash before ({at}); not restarted: see its last output "
                "above"
            )
            return code
        if attempt == restarts:
            _log(f"the run crashed ({how}) after {restarts} restarts")
            return code
        wait = min(first_wait * 2**attempt, _MAX_WAIT)
        _log(
            f"the run crashed ({how}) at {at}; restart {attempt + 1} of "
            f"{restarts} in {wait:g} s"
        )
        before = newest
        if _stopped_within(wait):
            return code
    raise AssertionError("every attempt returns or is followed by another")


def _stopped_within(seconds: float) -> bool:
    """Waits; returns True at once when a signal asks to stop."""
    deadline = time.monotonic() + seconds
    with child_process.forwarded_signals() as received:
        while not received and time.monotonic() < deadline:
            time.sleep(0.1)
    return bool(received)


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
