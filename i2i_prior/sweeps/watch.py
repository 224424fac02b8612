"""`i2i-prior sweep status | logs`: shows a sweep, or the log of a run."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from i2i_prior.errors import UserError
from i2i_prior.sweeps.run.state import (
    OVER,
    UNDER_WAY,
    counts,
    poll_states,
    state_of,
    states,
)
from i2i_prior.sweeps.run.store import PlannedRun, Sweep, open_sweep
from i2i_prior.sweeps.status_table import as_json, as_text
from i2i_prior.sweeps.submit import find_state

_INTERVAL = 3.0  # seconds between two updates of status --watch
_TICK = 0.5  # seconds between two reads of a log
_CLEAR = "\x1b[H\x1b[J"


def status(options: argparse.Namespace) -> int:
    """Runs `i2i-prior sweep status`."""
    sweep = open_sweep(options.sweep)
    if options.watch and not options.json:
        return _watch(sweep, options.all, options.html)
    found, messages = poll_states(sweep)
    if options.json:
        print(json.dumps(as_json(sweep, found), indent=1))
    else:
        print("\n".join([as_text(sweep, found, options.all), *messages]))
    if options.html:
        from i2i_prior.sweeps.status_page import write_page

        page = write_page(sweep, found)
        print(page, file=sys.stderr if options.json else sys.stdout)
    return 0


def _watch(sweep: Sweep, whole: bool, html: bool) -> int:
    """Repaints a terminal until the sweep is over; elsewhere logs changes."""
    terminal, before = sys.stdout.isatty(), ""
    try:
        while True:
            sweep = open_sweep(sweep.path)  # runs may have been added
            found, messages = poll_states(sweep)
            if terminal:
                text = as_text(sweep, found, whole)
                lines = [*messages, *text.splitlines()]
                height = shutil.get_terminal_size().lines - 1
                print(_CLEAR + "\n".join(lines[:height]), flush=True)
            elif (line := f"{sweep.name}: {counts(found)}") != before:
                before = line
                print(line, flush=True)
            if html:
                from i2i_prior.sweeps.status_page import write_page

                write_page(sweep, found)
            if all(state.state in OVER for state in found):
                return 0
            time.sleep(_INTERVAL)
    except KeyboardInterrupt:
        print()
        return 0


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
        try:
            _follow(sweep, run, file, len(text), options.attempt is None)
        except KeyboardInterrupt:
            print()
    return 0


def _log(folder: Path, attempt: int | None) -> Path | None:
    """Log of an attempt on its first host; None for the last attempt."""

    def number(file: Path) -> int:
        text = file.stem.removeprefix("log-")
        return int(text) if text.isdecimal() else 0

    if attempt is not None:
        file = folder / f"log-{attempt}.txt"
        return file if file.exists() else None
    found = [file for file in folder.glob("log-*.txt") if number(file)]
    return max(found, key=number, default=None)


def _follow(
    sweep: Sweep, run: PlannedRun, file: Path, offset: int, newer: bool
) -> None:
    """Prints what is appended until the run has ended.

    Args:
      sweep: the sweep.
      run: the run.
      file: log to begin with.
      offset: bytes of it that are printed already.
      newer: go on with the logs of later attempts.
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
