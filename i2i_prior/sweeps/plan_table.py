"""Text report of a plan: table, totals, notes and warnings."""

from collections import Counter
from collections.abc import Sequence

from i2i_prior.aot.machine import Machine
from i2i_prior.sweeps.run.store import PlannedRun
from i2i_prior.sweeps.spec.plan import Plan
from i2i_prior.sweeps.status import LONG, aligned, compact

_LEFT = ("run", "group", "role")
_LINES = 24  # of a folded table
_WARNINGS = 5  # runs that are named in a warning


def as_text(plan: Plan, machine: Machine | None, whole: bool) -> str:
    """Formats a plan; a long one folded, unless it is asked for as a `whole`.

    The machine is for hours, and for cost where it has a price.
    """
    runs = plan.runs
    folded = len(runs) > LONG and not whole
    groups: dict[object, list[PlannedRun]] = {}
    for run in runs:
        # Folded, one row for each role and value on the first axis.
        key = (run.role, _group_name(run)) if folded else run.id
        groups.setdefault(key, []).append(run)
    rows = [_row(group, machine, folded) for group in groups.values()]
    if (hidden := len(rows) - _LINES) > 0 and folded:
        half = _LINES // 2
        mark = {next(iter(rows[0])): f"... {hidden} more"}
        rows = [*rows[:half], mark, *rows[-half:]]
    head = list(rows[0])
    table = [[row.get(name, "") for name in head] for row in rows]
    lines = [*aligned([head, *table], _LEFT), "", *_totals(plan, machine)]
    if folded:
        lines.append("each line is a group of runs; --all lists every run")
    if machine is None:
        lines.append("hours: name a machine, as --accelerator h100x8 --mfu 0.4")
    lines += [f"note: {note}" for note in plan.spec.notes]
    for kind, found in _warnings(plan).items():
        if found:
            more = len(found) - _WARNINGS
            end = f" and {more} more" if more > 0 else ""
            lines.append(f"{kind}: {'; '.join(found[:_WARNINGS])}{end}")
    return "\n".join(lines)


def _group_name(run: PlannedRun) -> str:
    first = next(iter(run.labels.items()), ("run", ""))
    return " ".join(map(str, first))


def _row(
    group: Sequence[PlannedRun], machine: Machine | None, folded: bool
) -> dict[str, str]:
    """Formats a run, or a group of them, column -> text."""
    first = group[0]
    row = {"run": first.name, "role": first.role}
    if folded:
        row = {"group": _group_name(first), "role": first.role}
        row["runs"] = str(len(group))
    steps = [run.steps for run in group]
    epochs = [run.epochs for run in group if run.epochs is not None]
    row |= {
        "parameters": _span([run.parameters for run in group]),
        "steps": _span(steps) if folded else f"{first.steps:,}",
        "examples": _span([run.examples for run in group]),
        "epochs": f"{max(epochs):.2g}" if epochs else "-",
        "FLOPs": f"{sum(run.flops for run in group):.3g}",
    }
    if machine is not None:
        work = sum(run.model_flops for run in group)
        row["hours"] = _hours(machine.hours(work))
        if (cost := machine.cost(work)) is not None:
            row["cost"] = f"{cost:,.2f}"
    return row


def _span(numbers: Sequence[int]) -> str:
    least, most = compact(min(numbers)), compact(max(numbers))
    return least if least == most else f"{least} to {most}"


def _totals(plan: Plan, machine: Machine | None) -> list[str]:
    runs = plan.runs
    roles = Counter(run.role for run in runs)
    each = ", ".join(f"{count} {role}" for role, count in roles.items())
    work = sum(run.model_flops for run in runs)
    number = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    lines = [
        f"{plan.spec.name}: {number} ({each}), "
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
    """Runs left out, and those that would spoil a law: kind -> the runs."""
    repeated = [
        f"{run.name} ({run.epochs:.1f})"
        for run in plan.runs
        if run.epochs and run.epochs > 1
    ]
    short = [
        f"{run.name} ({warmup} of {run.steps})"
        for run in plan.runs
        if (warmup := plan.configs[run.id]["optim.warmup_steps"]) * 10
        > run.steps
    ]
    return {
        "left out": plan.left_out,
        "warning: more than one epoch, so laws of unlimited data do not hold": (
            repeated
        ),
        "warning: warm-up takes more than a tenth of the steps": short,
    }


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"
