"""`i2i-prior sweep status`: how a sweep stands, once or until it is over."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Sequence

from i2i_prior.sweeps.columns import aligned
from i2i_prior.sweeps.run.progress import duration
from i2i_prior.sweeps.run.state import OVER, STATES, RunState, seconds_left
from i2i_prior.sweeps.run.store import Sweep, open_sweep
from i2i_prior.sweeps.submit import counts, look

_EVERY = 3.0  # seconds between two pictures of --watch
LONG = 40  # runs above which those that need no eye are counted only
_EACH = 15  # of a state that are listed of so many runs
_QUIET = ("queued", "planned", "cancelled", "done")
_CLEAR = "\x1b[H\x1b[J"
_HEAD = (
    *("run", "state", "tries", "step", "loss", "metric", "best"),
    *("examples/s", "ETA", "host", "cause"),
)
_LEFT = ("run", "state", "host", "cause")
_CAUSE = 70  # characters of a cause in the table; the page has all


def status(options: argparse.Namespace) -> int:
    """`i2i-prior sweep status`."""
    sweep = open_sweep(options.sweep)
    if options.watch and not options.json:
        return _watch(sweep, options.all, options.html)
    found, troubles = look(sweep)
    if options.json:
        print(json.dumps(as_json(sweep, found), indent=1))
    else:
        print("\n".join([as_text(sweep, found, options.all), *troubles]))
    if options.html:
        from i2i_prior.sweeps.page import write_page

        page = write_page(sweep, found)
        print(page, file=sys.stderr if options.json else sys.stdout)
    return 0


def as_text(sweep: Sweep, found: Sequence[RunState], whole: bool) -> str:
    """Counts, what is done and left, and a table: trouble first.

    Args:
      sweep: whose runs they are.
      found: of `state.states`.
      whole: every run, however many there are.
    """
    order = {state: place for place, state in enumerate(STATES)}
    rows = sorted(found, key=lambda state: order[state.state])
    hidden = []
    if len(rows) > LONG and not whole:
        shown = _without_the_many(rows)
        hidden = [state for state in rows if state not in shown]
        rows = shown
    lines = [f"{sweep.facts['name']}: {counts(found) or 'no runs'}"]
    lines.append(totals(sweep, found))
    if rows:
        lines += ["", *aligned([_HEAD, *map(_row, rows)], _LEFT)]
    if hidden:
        lines.append(f"not listed: {counts(hidden)} (--all)")
    return "\n".join(lines)


def totals(sweep: Sweep, found: Sequence[RunState]) -> str:
    """What is done and left of the whole sweep, and its best run."""
    work = sum(state.run.flops for state in found)
    done = sum(state.share * state.run.flops for state in found)
    parts = [f"{done / work if work else 0:.1%} of {work:.3g} training FLOPs"]
    rate = sum(state.flops_per_second for state in found)
    left = seconds_left(found)
    if rate and left is not None:
        parts.append(f"{rate:.3g} FLOP/s, ETA {duration(left)}")
    best = [
        state
        for state in found
        if state.state != "diverged" and _finite(state.progress.metric)
    ]
    if best:
        run = min(best, key=lambda state: state.progress.metric or 0.0)
        parts.append(
            f"best {sweep.facts.get('metric')} {run.progress.metric:.5g} "
            f"({run.run.name})"
        )
    return "; ".join(parts)


def as_json(sweep: Sweep, found: Sequence[RunState]) -> dict:
    """What scripts read: the counts, and all that is known of each run."""
    return {
        "name": sweep.facts["name"],
        "metric": sweep.facts.get("metric"),
        "counts": {
            state: sum(one.state == state for one in found) for state in STATES
        },
        "flops": sum(state.run.flops for state in found),
        "flops_done": sum(state.share * state.run.flops for state in found),
        "seconds_left": seconds_left(found),
        "runs": [
            {
                "id": state.run.id,
                "name": state.run.name,
                "role": state.run.role,
                "labels": state.run.labels,
                "state": state.state,
                "cause": state.cause,
                "attempts": state.attempts,
                "host": state.host,
                "backend": state.backend,
                "job": state.job,
                "steps": state.run.steps,
                "seconds_left": state.seconds_left,
                **{
                    name: value if _finite(value) else None  # JSON has no NaN
                    for name, value in vars(state.progress).items()
                },
            }
            for state in found
        ],
    }


def _watch(sweep: Sweep, whole: bool, html: bool) -> int:
    """Paints it again and again on a terminal; elsewhere says what changed."""
    terminal, before = sys.stdout.isatty(), ""
    try:
        while True:
            sweep = open_sweep(sweep.path)  # runs may have been added
            found, troubles = look(sweep)
            if terminal:
                text = as_text(sweep, found, whole)
                lines = [*troubles, *text.splitlines()]
                room = shutil.get_terminal_size().lines - 1
                print(_CLEAR + "\n".join(lines[:room]), flush=True)
            elif (line := f"{sweep.facts['name']}: {counts(found)}") != before:
                before = line
                print(line, flush=True)
            if html:
                from i2i_prior.sweeps.page import write_page

                write_page(sweep, found)
            if all(state.state in OVER for state in found):
                return 0
            time.sleep(_EVERY)
    except KeyboardInterrupt:
        print()
        return 0


def _without_the_many(rows: Sequence[RunState]) -> list[RunState]:
    shown: list[RunState] = []
    for state in STATES:
        if state not in _QUIET:
            shown += [one for one in rows if one.state == state][:_EACH]
    return shown


def _row(state: RunState) -> tuple[str, ...]:
    progress, run = state.progress, state.run
    left = state.seconds_left
    rate = progress.examples_per_second
    running = state.state == "running"
    step = progress.step
    cause = state.cause
    return (
        run.name,
        state.state,
        str(state.attempts or ""),
        f"{step:,}/{run.steps:,}" if step else f"{run.steps:,}",
        _number(progress.loss),
        _number(progress.metric),
        _number(progress.best),
        _number(rate) if running else "",
        "" if left is None else duration(left),
        state.host if running or cause else "",
        cause if len(cause) <= _CAUSE else f"{cause[: _CAUSE - 3]}...",
    )


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
