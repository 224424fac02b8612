"""The scores of a run on its page: a table, the learning curve, a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from i2i_prior.report.charts import plots
from i2i_prior.report.html import (
    cell,
    escape,
    read_json,
    section,
    short,
)

# What two results must have alike to be points of one curve.
_ALIKE = ("num_samples", "per_condition", "solver", "steps", "guidance", "seed")


def scores_section(folder: Path) -> str:
    """One table of all results, and each metric over the steps."""
    results = [read_json(path) for path in sorted(folder.glob("*.json"))]
    results = [_told(r) for r in results if isinstance(r.get("metrics"), dict)]
    results.sort(key=lambda result: _number(result.get("step")))
    if not results:
        return ""
    names = list(dict.fromkeys(n for r in results for n in r["metrics"]))
    about = [
        key
        for key in dict.fromkeys(key for r in results for key in r)
        if key not in ("metrics", "step")
        and not any(isinstance(r.get(key), dict | list) for r in results)
    ][:8]
    head = "".join(f"<th>{escape(n)}</th>" for n in ["step", *names, *about])
    rows = "".join(
        "<tr>"
        + cell(result.get("step"), whole=True)
        + "".join(
            cell(result["told"].get(name, result["metrics"].get(name)))
            for name in names
        )
        + "".join(cell(result.get(key), whole=True) for key in about)
        + "</tr>"
        for result in results
    )
    table = f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'
    curves = _curves(results, names)
    return section("Evaluation", table + "<p></p>" * bool(curves) + curves)


def _curves(results: list[dict[str, Any]], names: list[str]) -> str:
    """Each metric over the steps, of the settings that have most of them."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        if isinstance(result.get("step"), int | float):
            setting = str([result.get(name) for name in _ALIKE])
            groups.setdefault(setting, []).append(result)
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
        for step, result in most.items():
            line = {"step": step, name: result["metrics"][name]}
            ends = f"{name}/interval"
            if ends in result["ends"]:
                line[ends] = result["ends"][ends]
            lines.append(line)
    # Those with intervals are the learning curve; the rest explains it.
    sure = {name for result in results for name in result["told"]}
    changing.sort(key=lambda name: name not in sure)
    return plots(lines, [(name, name) for name in changing])


def extremes(folder: Path) -> list[Path]:
    """The newest picture of best and worst conditions."""
    found = [p for p in folder.glob("*.png") if p.name[:8].isdigit()]
    return sorted(found)[-1:]


def _told(result: dict[str, Any]) -> dict[str, Any]:
    """A result with "told", texts of metrics that have an interval, and
    "ends", their intervals for `plots`; its reference by name."""
    told, ends = {}, {}
    found = result.get("intervals")
    for name, interval in (found if isinstance(found, dict) else {}).items():
        value = result["metrics"].get(name)
        try:
            low, high = float(interval["low"]), float(interval["high"])
            half = (high - low) / 2
            told[name] = f"{short(float(value))} ± {half:.2g}"
        except (TypeError, ValueError, KeyError):
            continue
        ends[f"{name}/interval"] = low, high
    reference = result.get("reference")
    if isinstance(reference, dict):
        result = result | {"reference": reference.get("file")}
    return result | {"told": told, "ends": ends}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else -math.inf
