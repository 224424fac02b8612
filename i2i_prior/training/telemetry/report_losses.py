"""Validation losses on a run's page: their curves, the newest by time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from i2i_prior.evaluation.validation_losses import (
    FOLDER,
    KINDS,
)
from i2i_prior.report.charts import plots
from i2i_prior.report.html import (
    cell,
    read_json,
    section,
)

_CURVES = tuple(
    (f"{FOLDER}/{kind}_{name}", f"{title}, {weights}")
    for name, title in (
        ("uniform", "Mean squared error over all times"),
        ("training", "Loss over the times of training"),
    )
    for kind, weights in (("ema", "EMA"), ("raw", "raw weights"))
)
_NORMAL = 1.96  # standard errors to either side of a 95 % interval


def losses_section(run: Path) -> str:
    """Curves with 95 % intervals, and a table of the newest step."""
    found = [read_json(file) for file in (run / FOLDER).glob("*.json")]
    found = [f for f in found if isinstance(f.get("losses"), dict)]
    found.sort(key=lambda document: document.get("step", 0))
    if not found:
        return ""
    lines = [_line(document) for document in found]
    return section(
        "Validation loss",
        plots(lines, _CURVES) + _table(found[-1]),
    )


def _line(document: dict[str, Any]) -> dict[str, Any]:
    losses = document["losses"]
    line = {"step": document.get("step", 0), **losses}
    for key, _ in _CURVES:
        mean, error = losses.get(key), losses.get(f"{key}_standard_error")
        if isinstance(mean, float) and isinstance(error, float):
            reach = _NORMAL * error
            line[f"{key}/interval"] = mean - reach, mean + reach
    return line


def _table(document: dict[str, Any]) -> str:
    """Mean squared error at each time, 0 for data and 1 for noise."""
    head = "".join(
        f"<th>{text}</th>"
        for text in ("time", "share in training", "EMA", "+-", "raw", "+-")
    )
    rows = "".join(
        "<tr>"
        + "".join(
            cell(level.get(key))
            for key in (
                "time",
                "share",
                *(
                    f"{kind}_mse{suffix}"
                    for kind in KINDS
                    for suffix in ("", "_standard_error")
                ),
            )
        )
        + "</tr>"
        for level in document.get("levels", [])
    )
    about = (
        f"step {document.get('step', 0):,}, {document.get('examples')} images "
        "of the held-out ones, the same noise in every run; +- one standard "
        "error over images"
    )
    return (
        f'<p class="soft">{about}</p><div class="scroll"><table>'
        f"<tr>{head}</tr>{rows}</table></div>"
    )
