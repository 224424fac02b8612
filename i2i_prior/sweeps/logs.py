"""`i2i-prior sweep logs`: the log of a run."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path

from i2i_prior.errors import UserError
from i2i_prior.sweeps.run.state import UNDER_WAY, state_of, states
from i2i_prior.sweeps.run.store import PlannedRun, Sweep, open_sweep
from i2i_prior.sweeps.submit import find_state

_TICK = 0.5  # seconds between two reads of a log


def logs(options: argparse.Namespace) -> int:
    """Runs `i2i-prior sweep logs`."""
    sweep = open_sweep(options.sweep)
    run = find_state(sweep, states(sweep), options.run).run
    file = _log(sweep.attempts(run.id), options.attempt)
    if file is None:
        which = f"attempt {options.attempt}" if options.attempt else "log"
        raise UserError(
            f"{run.id} has no {which} yet; i2i-prior sweep status "
            f"{sweep.quoted} shows its state"
        )
    text = file.read_bytes()
    tail = text.splitlines(keepends=True)[-max(options.lines, 0) or len(text) :]
    _write(b"".join(tail))
    if options.follow:
        with contextlib.suppress(KeyboardInterrupt):
            _follow(sweep, run, file, len(text), options.attempt is None)
            return 0
        print()
    return 0


def _log(folder: Path, attempt: int | None) -> Path | None:
    """Log of an attempt on its first host; None for the last attempt."""
    name = "*" if attempt is None else attempt
    numbers = {
        int(number): file
        for file in folder.glob(f"log-{name}.txt")
        if (number := file.stem.removeprefix("log-")).isdecimal()
    }
    return numbers[max(numbers)] if numbers else None


def _follow(
    sweep: Sweep, run: PlannedRun, file: Path, offset: int, newer: bool
) -> None:
    """Prints what is appended until the run has ended.

    The first `offset` bytes are printed already. With `newer` the logs of
    later attempts follow.
    """
    while True:
        over = state_of(sweep, run).state not in (*UNDER_WAY, "planned")
        with file.open("rb") as log:
            log.seek(offset)
            text = log.read()
        offset += len(text)
        _write(text)
        later = _log(sweep.attempts(run.id), None) if newer else None
        if later is not None and later != file and not text:
            file, offset = later, 0
            continue
        if over and not text:
            return
        time.sleep(_TICK)


def _write(text: bytes) -> None:
    if sys.stdout is None:  # a shell closed it
        return
    sys.stdout.write(text.decode("utf-8", "replace"))
    sys.stdout.flush()
