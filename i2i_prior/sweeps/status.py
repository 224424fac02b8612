"""State of a sweep as a text table and as JSON."""

import math
from collections.abc import Collection, Sequence
from typing import Any

from i2i_prior.io.files import nan_to_null
from i2i_prior.sweeps.run.state import (
    STATES,
    RunState,
    by_count,
    counts,
    seconds_left,
)
from i2i_prior.sweeps.run.store import Sweep

LONG = 40  # runs from which a table is shortened
WORDS = ("run", "role", "state", "host", "cause")  # other columns are numbers
_COLUMNS = (
    *("run", "state", "tries", "step", "loss", "metric", "best"),
    *("examples/s", "ETA", "host", "cause"),
)
_EACH = 15  # runs of a state that are listed of a large sweep
_COUNTED = ("queued", "planned", "cancelled", "done")  # not listed of one
_CAUSE = 70  # characters of a cause in the table; the page has all
# Of a run, and of its state, in the JSON.
_RUN = ("id", "name", "role", "labels")
_STATE = ("state", "cause", "attempts", "host", "backend", "job")


def cells(state: RunState) -> dict[str, str]:
    """Formats a run, column -> text; "" for what is not known or not due."""
    run, progress, left = state.run, state.progress, state.seconds_left
    running = state.state == "running"
    return {
        "run": run.name,
        "role": run.role,
        "state": state.state,
        "tries": str(state.attempts or ""),
        "step": f"{progress.step:,}/{run.steps:,}"
        if progress.step
        else f"{run.steps:,}",
        "parameters": compact(run.parameters),
        "FLOPs": f"{run.flops:.3g}",
        "loss": _number(progress.loss),
        "metric": _number(progress.metric),
        "best": _number(progress.best),
        "examples/s": _number(progress.examples_per_second) if running else "",
        "ETA": "" if left is None else duration(left),
        "host": state.host if running or state.cause else "",
        "cause": state.cause,
    }


def by_state(found: Sequence[RunState]) -> list[RunState]:
    """Sorts runs by state, trouble first."""
    return sorted(found, key=lambda state: STATES.index(state.state))


def as_text(sweep: Sweep, found: Sequence[RunState], whole: bool) -> str:
    """Formats counts, totals, and a table (a `whole` one), trouble first."""
    shown, hidden = by_state(found), []
    if len(shown) > LONG and not whole:
        few = [
            one
            for name in STATES
            if name not in _COUNTED
            for one in [one for one in shown if one.state == name][:_EACH]
        ]
        hidden = [state for state in shown if state not in few]
        shown = few
    lines = [f"{sweep.name}: {counts(found) or 'no runs'}"]
    lines.append(_totals(sweep, found))
    if shown:
        rows = [[cells(state)[name] for name in _COLUMNS] for state in shown]
        for row in rows:
            if len(row[-1]) > _CAUSE:
                row[-1] = f"{row[-1][: _CAUSE - 3]}..."
        lines += ["", *aligned([_COLUMNS, *rows], WORDS)]
    if hidden:
        lines.append(f"not listed: {counts(hidden)} (--all)")
    return "\n".join(lines)


def flops_done(found: Sequence[RunState]) -> tuple[float, float]:
    """Training FLOPs of all runs, and those that are done."""
    total = sum(state.run.flops for state in found)
    return total, sum(state.fraction * state.run.flops for state in found)


def _totals(sweep: Sweep, found: Sequence[RunState]) -> str:
    """Formats the work done and left, and the best run."""
    work, done = flops_done(found)
    parts = [f"{done / work if work else 0:.1%} of {work:.3g} training FLOPs"]
    rate = sum(state.flops_per_second for state in found)
    left = seconds_left(found)
    if rate and left is not None:
        parts.append(f"{rate:.3g} FLOP/s, ETA {duration(left)}")
    values = [
        (state.progress.metric, state.run.name)
        for state in found
        if state.state != "diverged" and _finite(state.progress.metric)
    ]
    if values:
        value, name = min(values, key=lambda pair: pair[0] or 0.0)
        parts.append(f"best {sweep.metric} {value:.5g} ({name})")
    return "; ".join(parts)


def as_json(sweep: Sweep, found: Sequence[RunState]) -> dict[str, Any]:
    """State of a sweep for scripts, as --json prints it."""
    work, done = flops_done(found)
    return {
        "name": sweep.name,
        "metric": sweep.metric,
        "counts": by_count(found),
        "flops": work,
        "flops_done": done,
        "seconds_left": seconds_left(found),
        "runs": [
            {name: getattr(state.run, name) for name in _RUN}
            | {name: getattr(state, name) for name in _STATE}
            | {"steps": state.run.steps, "seconds_left": state.seconds_left}
            | nan_to_null(vars(state.progress))
            for state in found
        ],
    }


def aligned(rows: Sequence[Sequence[str]], left: Collection[str]) -> list[str]:
    """Formats a text table; empty columns are left out.

    The first row is the head; columns of the heads `left` are aligned left.
    """
    columns = [
        [
            text.ljust(width) if head in left else text.rjust(width)
            for text in (head, *column)
        ]
        for head, *column in zip(*rows, strict=True)
        if any(column) and (width := max(map(len, (head, *column))))
    ]
    return ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]


def duration(seconds: float) -> str:
    """Formats seconds, as 45 s, 12 min, 3.4 h or 2.1 days."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 5970:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 47.95 else f"{hours / 24:.1f} days"


def compact(number: float) -> str:
    """Formats a count in three digits, as 1.25M."""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:g}"


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
