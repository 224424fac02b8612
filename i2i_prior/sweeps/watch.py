"""`i2i-prior sweep status | logs`: shows a sweep, or the log of a run."""

import argparse
import contextlib
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
from i2i_prior.sweeps.status import as_json, as_text
from i2i_prior.sweeps.submit import find_state

_INTERVAL = 3.0  # seconds between two updates of status --watch
_CLEAR = "\x1b[H\x1b[J"
_TICK = 0.5  # seconds between two reads of a log


def status(options: argparse.Namespace) -> int:
    """Runs `i2i-prior sweep status`; --watch repaints until it is over."""
    watch, before = options.watch and not options.json, ""
    try:
        while True:
            sweep = open_sweep(options.sweep)  # runs may have been added
            found, messages = poll_states(sweep)
            if options.json:
                print(json.dumps(as_json(sweep, found), indent=1))
            elif watch and not sys.stdout.isatty():
                if (line := f"{sweep.name}: {counts(found)}") != before:
                    before = line
                    print(line, flush=True)
            else:
                text = as_text(sweep, found, options.all)
                if watch:
                    lines = [*messages, *text.splitlines()]
                    height = shutil.get_terminal_size().lines - 1
                    text, messages = _CLEAR + "\n".join(lines[:height]), []
                print("\n".join([text, *messages]), flush=True)
            if options.html:
                from i2i_prior.sweeps.status_page import write_page

                page = write_page(sweep, found)
                if not watch:
                    print(page, file=sys.stderr if options.json else sys.stdout)
            if not watch or all(state.state in OVER for state in found):
                return 0
            time.sleep(_INTERVAL)
    except KeyboardInterrupt:
        if not watch:
            raise
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
