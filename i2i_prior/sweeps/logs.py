"""`i2i-prior sweep logs`: what a run says, and goes on to say."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

from i2i_prior.errors import UserError
from i2i_prior.sweeps.run.state import states
from i2i_prior.sweeps.run.store import PlannedRun, Sweep, open_sweep
from i2i_prior.sweeps.submit import UNDER_WAY, named

_TICK = 0.5  # seconds between looks at a log


def logs(options: argparse.Namespace) -> int:
    """`i2i-prior sweep logs`."""
    sweep = open_sweep(options.sweep)
    run = named(sweep, states(sweep), options.run).run
    folder = sweep.attempts(run.id)
    file = _log(folder, options.attempt)
    if file is None:
        which = f"attempt {options.attempt}" if options.attempt else "log"
        raise UserError(
            f"{run.id} has no {which} yet; i2i-prior sweep status "
            f"{sweep.quoted} says where it stands"
        )
    text = file.read_bytes()
    tail = text.splitlines(keepends=True)[-max(options.lines, 0) or len(text) :]
    _write(b"".join(tail))
    if options.follow:
        _follow(sweep, run, file, len(text), options.attempt is None)
    return 0


def _log(folder: Path, attempt: int | None) -> Path | None:
    """The log of an attempt, else the last one; of the first host."""
    if attempt is not None:
        file = folder / f"log-{attempt}.txt"
        return file if file.exists() else None
    found = [file for file in folder.glob("log-*.txt") if _number(file)]
    return max(found, key=_number, default=None)


def _number(file: Path) -> int:
    text = file.stem.removeprefix("log-")
    return int(text) if text.isdecimal() else 0


def _follow(
    sweep: Sweep, run: PlannedRun, file: Path, at: int, newer: bool
) -> None:
    """Writes what comes, of later attempts too, until the run has ended."""
    alone = replace(sweep, runs=[run])
    try:
        while True:
            over = states(alone)[0].state not in (*UNDER_WAY, "planned")
            with file.open("rb") as log:
                log.seek(at)
                text = log.read()
            at += len(text)
            _write(text)
            later = _log(sweep.attempts(run.id), None) if newer else None
            if later is not None and later != file and not text:
                file, at = later, 0
                continue
            if over and not text:
                return
            time.sleep(_TICK)
    except KeyboardInterrupt:
        print()


def _write(text: bytes) -> None:
    if sys.stdout is None:  # a shell closed it
        return
    sys.stdout.write(text.decode("utf-8", "replace"))
    sys.stdout.flush()
