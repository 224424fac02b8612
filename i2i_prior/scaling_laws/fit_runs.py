"""Fit of scaling laws by the options of `i2i-prior fit`."""

import argparse
import contextlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from i2i_prior.aot.machine import machine
from i2i_prior.checkpoint.run_dir import write_json
from i2i_prior.errors import UserError
from i2i_prior.scaling_laws import plots, rates, report, summary
from i2i_prior.scaling_laws.diagnostics import diagnose
from i2i_prior.scaling_laws.figures import save_figure
from i2i_prior.scaling_laws.fitting import fit_all
from i2i_prior.scaling_laws.laws import REMEDY, Laws
from i2i_prior.scaling_laws.points import LARGEST, Table, read_csv
from i2i_prior.scaling_laws.recommend import recommend
from i2i_prior.scaling_laws.result import laws_of, rates_values
from i2i_prior.scaling_laws.runs import own_metric, read_runs

LEAST_DRAWS = 100  # percentiles of fewer are noise


def fit(options: argparse.Namespace) -> int:
    """Writes OUT/laws.json, draws.npz, plots/*.png and report.html."""
    budgets = _budgets(options.predict)
    chips = machine(options.accelerator, options.mfu, options.flops_per_second)
    if chips is not None and not budgets:
        raise UserError("hours are of budgets; add --predict, as 1e20,1e21")
    given = [bool(options.runs), bool(options.csv), bool(options.laws)]
    if sum(given) != 1:
        raise UserError("give one of --runs DIR, --csv FILE and --laws DIR")
    if options.laws:
        if not budgets:
            raise UserError("--laws DIR goes with --predict, as 1e20,1e21")
        laws = Laws.load(Path(options.laws))
        for c in budgets:
            entry = recommend(laws, c, options.seed, chips)
            print(summary.recommendation(entry))
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
    if options.csv:
        table = read_csv(Path(options.csv), options.metric or "loss")
    else:
        folders = [Path(folder) for folder in options.runs]
        table = read_runs(folders, options.metric or own_metric(folders))
    table = _hold_out(table, options.holdout)
    if not budgets and {point.role for point in table.points} == {"tune"}:
        _write_rates(out, table)
        return 0
    found = fit_all(table, options.seed, options.bootstrap)
    laws = laws_of(found)
    laws.values.update(
        seed=options.seed,
        predictions=[recommend(laws, c, options.seed, chips) for c in budgets],
        warnings=diagnose(found, budgets),
    )
    laws.save(out)
    pictures = plots.draw(out / "plots", found)
    report.write_report(out / "report.html", found, laws.values, pictures)
    print(summary.summary(laws.values))
    print(out / "report.html")
    return 0


def _write_rates(out: Path, table: Table) -> None:
    """Writes OUT/laws.json, in which laws are null, and plots/rates.png."""
    found, law = rates.fit(table.of("tune"))
    if not found:
        raise UserError(
            "all runs are of role tune, and no size has three learning rates; "
            "add runs, or wait for those that still train"
        )
    values: dict[str, Any] = {
        "metric": table.metric,
        "data": {
            "runs": 0,
            "tune": len(table.points),
            "excluded": [list(pair) for pair in table.excluded],
        },
        "parametric": None,
        "isoflop": None,
        "learning_rate": rates_values(found, law),
    }
    file = out / "plots" / "rates.png"
    save_figure(file, plots.rates, found, table.metric)
    write_json(out / "laws.json", values, REMEDY)
    for series, some in rates.by_series(found).items():
        best = ", ".join(
            f"{rate.best:.2g} at N = {rate.n:.3g}"
            + " (the last one tried)" * rate.edge
            for rate in some
        )
        name = f"{series}: " if series else ""
        print(
            f"{name}best learning rates {best}; a factor of "
            f"{rates.drift(some):.2g} apart"
        )
    print(file)


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
    """Budgets in FLOPs of --predict; raises UserError."""
    with contextlib.suppress(ValueError):
        found = [float(part) for part in (text or "").split(",") if part]
        if all(0 < c < LARGEST for c in found):
            return found
    raise UserError(
        f"--predict {text!r} names no budgets; give FLOPs as 1e20,1e21"
    )
