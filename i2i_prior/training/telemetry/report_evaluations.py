"""Sections of a run's report on its evaluations: validation losses, metrics."""

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from i2i_prior.evaluation.validation_losses import FOLDER, KINDS
from i2i_prior.io.files import read_json_or_empty
from i2i_prior.report.charts import plots
from i2i_prior.report.html import escape, section, short, table

_LOSSES = tuple(
    (f"{FOLDER}/{kind}_{name}", f"{title}, {weights}")
    for name, title in (
        ("uniform", "Mean squared error over all times"),
        ("training", "Loss over the times of training"),
    )
    for kind, weights in (("ema", "EMA"), ("raw", "raw weights"))
)
_NORMAL = 1.96  # standard errors to either side of a 95 % interval
# Settings that two results share if they are points of one curve.
_SETTINGS = (
    "num_samples",
    "per_condition",
    "solver",
    "steps",
    "guidance",
    "seed",
)


def losses_section(run: Path) -> str:
    """Curves of the validation losses with 95 % intervals, and a table of the
    mean squared error at each time of the newest step."""
    found = [read_json_or_empty(file) for file in (run / FOLDER).glob("*.json")]
    found = [f for f in found if isinstance(f.get("losses"), dict)]
    found.sort(key=lambda document: document.get("step", 0))
    if not found:
        return ""
    newest = found[-1]
    about = (
        f"step {newest.get('step', 0):,}, {newest.get('examples')} held-out "
        "images, the same noise in every run; time 0 is data, 1 is noise; +- "
        "one standard error over images"
    )
    columns = {"time": "time", "share": "share in training"}
    for kind in KINDS:
        columns[f"{kind}_mse"] = "EMA" if kind == "ema" else kind
        columns[f"{kind}_mse_standard_error"] = "+-"
    levels = newest.get("levels", [])
    rows = [[level.get(key) for key in columns] for level in levels]
    curves = plots([_loss_line(document) for document in found], _LOSSES)
    times = table(list(columns.values()), rows)
    body = f'{curves}<p class="soft">{escape(about)}</p>{times}'
    return section("Validation loss", body)


def _loss_line(document: dict[str, Any]) -> dict[str, Any]:
    """Losses of one step by name, with their intervals for `plots`."""
    losses = document["losses"]
    line = {"step": document.get("step", 0), **losses}
    for key, _ in _LOSSES:
        mean, error = losses.get(key), losses.get(f"{key}_standard_error")
        if isinstance(mean, float) and isinstance(error, float):
            half = _NORMAL * error
            line[f"{key}/interval"] = mean - half, mean + half
    return line


def metrics_section(folder: Path) -> str:
    """Table of all results in a folder, and each metric over the steps."""
    read = map(read_json_or_empty, sorted(folder.glob("*.json")))
    scored = (r for r in read if isinstance(r.get("metrics"), dict))
    results = [_with_intervals(result) for result in scored]
    results.sort(key=lambda result: _number(result.get("step")))
    if not results:
        return ""
    names = list(dict.fromkeys(n for r in results for n in r["metrics"]))
    settings = [
        key
        for key in dict.fromkeys(key for r in results for key in r)
        if key not in ("metrics", "step")
        and not any(isinstance(r.get(key), dict | list) for r in results)
    ][:8]
    rows = [
        [
            result.get("step"),
            *(result["texts"].get(n, result["metrics"].get(n)) for n in names),
            *(result.get(key) for key in settings),
        ]
        for result in results
    ]
    head = ["step", *names, *settings]
    body = table(head, rows, whole=["step", *settings])
    curves = _metric_curves(results, names)
    return section("Evaluation", body + "<p></p>" * bool(curves) + curves)


def _with_intervals(result: dict[str, Any]) -> dict[str, Any]:
    """Adds "texts" ("28.5 ± 1") and "ends" (intervals for `plots`) of metrics
    that have an interval; the reference becomes its file name."""
    texts, ends = {}, {}
    found = result.get("intervals")
    for name, interval in (found if isinstance(found, dict) else {}).items():
        try:
            low, high = float(interval["low"]), float(interval["high"])
            value = short(float(result["metrics"].get(name)))
        except (TypeError, ValueError, KeyError):
            continue
        texts[name] = f"{value} ± {(high - low) / 2:.2g}"
        ends[f"{name}/interval"] = low, high
    reference = result.get("reference")
    if isinstance(reference, dict):
        result = result | {"reference": reference.get("file")}
    return result | {"texts": texts, "ends": ends}


def _metric_curves(results: list[dict[str, Any]], names: list[str]) -> str:
    """Curve of each metric that changes, of the settings with most results."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        if isinstance(result.get("step"), int | float):
            groups[str([result.get(n) for n in _SETTINGS])].append(result)
    lines, changing = [], []
    for name in names:
        # A later file takes the place of an earlier one of the same step.
        found = [
            {r["step"]: r for r in group if name in r["metrics"]}
            for group in groups.values()
        ]
        most = max(found, key=len, default={})
        values = {str(result["metrics"][name]) for result in most.values()}
        if len(values) > 1:
            changing.append(name)
        lines += [
            {**result["ends"], "step": step, name: result["metrics"][name]}
            for step, result in most.items()
        ]
    # Metrics with intervals are the learning curve and come first.
    certain = {name for result in results for name in result["texts"]}
    changing.sort(key=lambda name: name not in certain)
    return plots(lines, [(name, name) for name in changing])


def extremes(folder: Path) -> list[Path]:
    """Newest picture of the best and worst conditions, in a list."""
    found = [p for p in folder.glob("*.png") if p.name[:8].isdigit()]
    return sorted(found)[-1:]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else -math.inf
