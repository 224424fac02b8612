"""`i2i-prior fit`: runs in, laws out."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from i2i_prior.aot.machine import (
    Machine,
    machine,
)
from i2i_prior.errors import UserError
from i2i_prior.scaling_laws import (
    document,
    saving,
    tuning,
)
from i2i_prior.scaling_laws.diagnostics import doubts
from i2i_prior.scaling_laws.fitting import (
    Fitted,
    fit_all,
)
from i2i_prior.scaling_laws.points import (
    LARGEST,
    Table,
    read_csv,
)
from i2i_prior.scaling_laws.recommend import recommend
from i2i_prior.scaling_laws.runs import (
    own_metric,
    read_runs,
)
from i2i_prior.scaling_laws.text import (
    summary,
    told,
)

LEAST_DRAWS = 100  # percentiles of fewer are noise


def fit(options: argparse.Namespace) -> int:
    """Writes OUT/laws.json, draws.npz, plots/*.png and report.html.

    Raises:
      UserError: for options that do not go together, and bad data.
    """
    budgets = _budgets(options.predict)
    there = machine(options.accelerator, options.mfu, options.flops_per_second)
    if there is not None and not budgets:
        raise UserError("hours are of budgets; add --predict, as 1e20,1e21")
    given = [bool(options.runs), bool(options.csv), bool(options.laws)]
    if sum(given) != 1:
        raise UserError("give one of --runs DIR, --csv FILE and --laws DIR")
    if options.laws:
        if not budgets:
            raise UserError("--laws DIR goes with --predict, as 1e20,1e21")
        laws = saving.load(Path(options.laws))
        for c in budgets:
            print(told(recommend(laws, c, options.seed, there)))
        return 0
    if options.seed < 0:
        raise UserError(f"--seed is {options.seed}; give 0 or more")
    if not options.out:
        raise UserError("--out DIR is missing: where laws.json and plots go")
    if options.bootstrap < LEAST_DRAWS:
        raise UserError(
            f"--bootstrap is {options.bootstrap}; give {LEAST_DRAWS} or more"
        )
    out = Path(options.out)
    if out.is_file():
        raise UserError(f"--out {out} is a file; choose a folder")
    table = _hold_out(_table(options), options.holdout)
    if not budgets and {point.role for point in table.points} == {"tune"}:
        print(tuning.write(out, table))
        return 0
    fitted = fit_all(table, options.seed, options.bootstrap)
    _write(out, fitted, budgets, options.seed, there)
    return 0


def _write(
    out: Path,
    fitted: Fitted,
    budgets: list[float],
    seed: int,
    there: Machine | None,
) -> None:
    from i2i_prior.scaling_laws.plots import draw
    from i2i_prior.scaling_laws.report import write_report

    laws = saving.laws_of(fitted)
    values: dict[str, Any] = document.document(fitted)
    values["seed"] = seed
    values["predictions"] = [recommend(laws, c, seed, there) for c in budgets]
    values["warnings"] = doubts(fitted, budgets)
    saving.save(out, values, laws)
    pictures = draw(out / "plots", fitted)
    write_report(out / "report.html", fitted, values, pictures)
    print(summary(values))
    print(out / "report.html")


def _table(options: argparse.Namespace) -> Table:
    if options.csv:
        return read_csv(Path(options.csv), options.metric or "loss")
    folders = [Path(folder) for folder in options.runs]
    return read_runs(folders, options.metric or own_metric(folders))


def _hold_out(table: Table, flops: float | None) -> Table:
    """The table with fit runs of so many FLOPs or more held out."""
    if flops is None:
        return table
    points = [
        replace(point, role="holdout")
        if point.role == "fit" and point.c >= flops
        else point
        for point in table.points
    ]
    if not any(point.role == "holdout" for point in points):
        largest = max((point.c for point in points), default=math.nan)
        raise UserError(
            f"--holdout {flops:g} holds no run out; the largest has "
            f"{largest:.4g} FLOPs"
        )
    return replace(table, points=points)


def _budgets(text: str | None) -> list[float]:
    try:
        found = [float(part) for part in (text or "").split(",") if part]
    except ValueError:
        found = [-1.0]
    if not all(0 < c < LARGEST for c in found):
        raise UserError(
            f"--predict {text!r} names no budgets; give FLOPs as 1e20,1e21"
        )
    return found
