"""The plan as people read it before anything starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from i2i_prior.aot.machine import Machine
from i2i_prior.sweeps.columns import aligned
from i2i_prior.sweeps.run.store import PlannedRun
from i2i_prior.sweeps.spec.plan import Plan

LONG = 40  # runs from which a table is folded into groups
_LEFT = ("run", "group", "role")
_LINES = 24  # of a folded table
_WARNINGS = 5  # of one kind that are told


def as_text(plan: Plan, machine: Machine | None, whole: bool) -> str:
    """Table, totals, notes and warnings.

    Args:
      plan: the plan.
      machine: for hours, and cost where it has a price; None for neither.
      whole: every run, however many there are.
    """
    runs = plan.runs
    folded = len(runs) > LONG and not whole
    rows = _groups(runs, machine) if folded else _rows(runs, machine)
    if folded:
        rows = _middle_out(rows)
    lines = [*aligned(rows, _LEFT), "", *_totals(plan, machine)]
    if folded:
        lines.append("each line is a group of runs; --all lists every run")
    if machine is None:
        lines.append("hours: name a machine, as --accelerator h100x8 --mfu 0.4")
    lines += [f"note: {note}" for note in plan.spec.notes]
    lines += _told("left out", plan.left_out)
    for kind, found in _warnings(plan).items():
        lines += _told(f"warning: {kind}", found)
    return "\n".join(lines)


def _rows(
    runs: Iterable[PlannedRun], machine: Machine | None
) -> list[list[str]]:
    head = ["run", "role", "parameters", "steps", "examples", "epochs", "FLOPs"]
    rows = [[*head, *_machine_head(machine)]]
    for run in runs:
        row = [run.name, run.role, _big(run.parameters), f"{run.steps:,}"]
        row += [_big(run.examples), _epochs([run]), f"{run.flops:.3g}"]
        rows.append(row + _machine_cells(machine, [run]))
    return rows


def _groups(
    runs: Sequence[PlannedRun], machine: Machine | None
) -> list[list[str]]:
    """One row for each role and place on the first axis."""
    groups: dict[tuple[str, str], list[PlannedRun]] = {}
    for run in runs:
        first = next(iter(run.labels.items()), ("run", ""))
        key = run.role, " ".join(map(str, first))
        groups.setdefault(key, []).append(run)
    head = ["group", "role", "runs", "parameters", "steps", "examples"]
    rows = [[*head, "epochs", "FLOPs", *_machine_head(machine)]]
    for (role, name), group in groups.items():
        row = [name, role, str(len(group))]
        row.append(_span([run.parameters for run in group]))
        row.append(_span([run.steps for run in group]))
        row.append(_span([run.examples for run in group]))
        row.append(_epochs(group))
        row.append(f"{sum(run.flops for run in group):.3g}")
        rows.append(row + _machine_cells(machine, group))
    return rows


def _machine_head(machine: Machine | None) -> list[str]:
    if machine is None:
        return []
    return ["hours"] if machine.price is None else ["hours", "cost"]


def _machine_cells(
    machine: Machine | None, group: Iterable[PlannedRun]
) -> list[str]:
    if machine is None:
        return []
    work = sum(run.model_flops for run in group)
    cost = machine.cost(work)
    hours = _hours(machine.hours(work))
    return [hours] if cost is None else [hours, f"{cost:,.2f}"]


def _span(numbers: Sequence[int]) -> str:
    least, most = _big(min(numbers)), _big(max(numbers))
    return least if least == most else f"{least} to {most}"


def _totals(plan: Plan, machine: Machine | None) -> list[str]:
    runs = plan.runs
    roles = Counter(run.role for run in runs)
    each = ", ".join(f"{count} {role}" for role, count in roles.items())
    work = sum(run.model_flops for run in runs)
    lines = [
        f"{plan.spec.name}: {len(runs)} run{'s' * (len(runs) > 1)} ({each}), "
        f"{sum(run.flops for run in runs):.3g} training FLOPs; {work:.3g} "
        "with frozen networks"
    ]
    if machine:
        hours = machine.hours(work)
        text = (
            f"on {machine.name}: {_hours(hours)} h one run after the other, "
            f"{_hours(hours * machine.chips)} chip-hours"
        )
        cost = machine.cost(work)
        if cost is not None:
            text += f", {cost:,.2f} at {machine.price:g} each"
        lines.append(f"{text}; {machine.assumption}")
    return lines


def _warnings(plan: Plan) -> dict[str, list[str]]:
    """What in a plan spoils laws, by kind: the runs it is true of."""
    repeated = [
        f"{run.name} ({run.epochs:.1f})"
        for run in plan.runs
        if run.epochs and run.epochs > 1
    ]
    short = []
    for run in plan.runs:
        warmup = plan.configs[run.id]["optim.warmup_steps"]
        if run.steps < 10 * warmup:
            short.append(f"{run.name} ({warmup} of {run.steps})")
    kinds = {
        "more than one epoch, so laws of unlimited data do not hold": repeated,
        "warm-up takes more than a tenth of the steps": short,
    }
    return {kind: found for kind, found in kinds.items() if found}


def _told(kind: str, found: Sequence[str]) -> list[str]:
    if not found:
        return []
    more = len(found) - _WARNINGS
    end = f" and {more} more" if more > 0 else ""
    return [f"{kind}: {'; '.join(found[:_WARNINGS])}{end}"]


def _middle_out(rows: list[list[str]]) -> list[list[str]]:
    """Head, first and last lines, of a table that would not end."""
    hidden = len(rows) - 1 - _LINES
    if hidden <= 0:
        return rows
    half = _LINES // 2
    mark = [f"... {hidden} more"] + [""] * (len(rows[0]) - 1)
    return [*rows[: half + 1], mark, *rows[-half:]]


def _big(number: float) -> str:
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:g}"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def _epochs(runs: Sequence[PlannedRun]) -> str:
    found = [run.epochs for run in runs if run.epochs is not None]
    return f"{max(found):.2g}" if found else "-"
