"""`i2i-prior sweep collect`: results of the runs of a sweep, as CSV."""

import argparse
import csv
import io
import math
from collections import Counter
from pathlib import Path
from typing import Any

from i2i_prior.checkpoint.run_dir import read_json
from i2i_prior.errors import UserError
from i2i_prior.io.disk import write_errors
from i2i_prior.io.files import write_bytes
from i2i_prior.sweeps.run.state import ENDED, RunState, result, states
from i2i_prior.sweeps.run.store import Sweep, open_sweep

FILE = "results.csv"
# Column names of `i2i-prior fit --csv`.
_SHORT = {"parameters": "params", "value": "loss"}


def rows(sweep: Sweep, metric: str | None = None) -> list[dict[str, Any]]:
    """Results of a sweep: one row a run, in the order of the plan.

    The metric is a key of result.json's metrics, else the sweep's own.
    UserError where a frozen config cannot be read.

    Returns:
      id, name, role, state (see `state`), labels (a dict), parameters,
      tokens, flops, model_flops, examples, epochs (all as planned), steps,
      step (reached), learning_rate, batch_size, value and standard_error of
      the metric, and metrics (a dict of all). The last three are None, None
      and empty before a run has ended; a diverged run's value is NaN.
    """
    name = metric or sweep.metric
    return [_row(sweep, state, name) for state in states(sweep)]


def collect(options: argparse.Namespace) -> int:
    """Runs `i2i-prior sweep collect`: writes SWEEP/results.csv, or --out."""
    sweep = open_sweep(options.sweep)
    metric = options.metric or sweep.metric
    found = rows(sweep, metric)
    _refuse_unknown(found, metric)
    out = Path(options.out) if options.out else sweep.path / FILE
    flat = [_flat(row) for row in found]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(flat)
    with write_errors(out, "choose another --out"):
        write_bytes(out, text.getvalue().encode())
    counts = Counter(row["state"] for row in found)
    each = ", ".join(f"{count} {state}" for state, count in counts.items())
    runs = "1 run" if len(found) == 1 else f"{len(found)} runs"
    print(f"{out}: {runs} ({each}); loss is {metric}")
    if len(found) > counts["done"]:
        print("runs that are not done have no loss there, and fit none")
    return 0


def _row(sweep: Sweep, state: RunState, metric: str) -> dict[str, Any]:
    run = state.run
    ended = result(sweep, run)
    metrics = ended.get("metrics") or {}
    value, error = metrics.get(metric), metrics.get(f"{metric}_standard_error")
    if ended.get("outcome") == "diverged":
        value, error = math.nan, None
    file = sweep.config(run.id)
    try:
        config = read_json(file)["config"]
        rate, batch = config["optim.learning_rate"], config["data.batch_size"]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{file} is not the config of a run; remove it and plan the sweep "
            "again into the same folder"
        ) from error
    return {
        "id": run.id,
        "name": run.name,
        "role": run.role,
        "state": state.state,
        "labels": run.labels,
        "parameters": run.parameters,
        "tokens": run.tokens,
        "flops": run.flops,
        "value": value,
        "standard_error": error,
        "learning_rate": rate,
        "batch_size": batch,
        "epochs": run.epochs,
        "examples": run.examples,
        "steps": run.steps,
        "step": ended.get("step", state.progress.step),
        "model_flops": run.model_flops,
        "metrics": metrics,
    }


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Flattens a row for CSV: a column for each label and metric."""
    flat = {_SHORT.get(name, name): value for name, value in row.items()}
    for more in (flat.pop("labels"), flat.pop("metrics")):
        flat |= {k: v for k, v in more.items() if k not in flat}
    return flat


def _refuse_unknown(found: list[dict[str, Any]], metric: str) -> None:
    known = {name for row in found for name in row["metrics"]}
    done = any(row["state"] in ENDED for row in found)
    if done and metric not in known:
        names = sorted(n for n in known if not n.endswith("_standard_error"))
        raise UserError(
            f"no ended run has the metric {metric}; there are "
            f"{', '.join(names) or 'none'}: choose with --metric"
        )
