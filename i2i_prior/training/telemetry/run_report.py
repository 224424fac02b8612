"""report.html: what a person opens first in a run directory.

One file without network, scripts or fonts: curves are inline SVG in the
page's own colours (light and dark), pictures are base64. What the run
directory does not hold is left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.io.files import (
    write_bytes,
)
from i2i_prior.report.charts import plots
from i2i_prior.report.html import (
    STYLE,
    embedded,
    escape,
    flatten,
    folded,
    read_json,
    readable,
    section,
    short,
)
from i2i_prior.training.telemetry.metric_writer import read_metrics
from i2i_prior.training.telemetry.report_losses import losses_section
from i2i_prior.training.telemetry.report_scores import (
    extremes,
    scores_section,
)

_CURVES = (
    ("loss", "Loss"),
    ("learning_rate", "Learning rate"),
    ("grad_norm", "Gradient norm"),
    ("examples_per_second", "Examples per second"),
    ("mfu", "Model FLOPs utilisation"),
    ("goodput", "Goodput: share of time since the first start"),
    ("data_wait", "Waiting for data, seconds a log line"),
)
_LINEAR = (
    "learning_rate",
    "examples_per_second",
    "mfu",
    "goodput",
    "data_wait",
)


def write_report(workdir: str | os.PathLike[str]) -> Path:
    """Writes `workdir`/report.html from what the run has left there so far.

    Reads config.json, metadata.json, metrics.jsonl, validation/STEP.json,
    samples/STEP.png, variations/grid.png, interpolations/*.png|gif,
    evaluations/*.json|png, goodput.json and profile/summary.txt.
    Returns the path. Raises UserError where `workdir` is no folder.
    """
    run = Path(workdir)
    if not run.is_dir():
        raise UserError(f"there is no run directory {run}.")
    saved = read_json(run / "config.json")
    config = saved.get("config", saved)
    metadata = read_json(run / "metadata.json")
    lines = [line for line in read_metrics(run) if "step" in line]
    sections = [
        _cards(config, metadata, lines),
        section("Training", plots(lines, _CURVES, _LINEAR)),
        losses_section(run),
        _samples(run / "samples"),
        _pictures("Variations", [run / "variations" / "grid.png"]),
        _pictures("Interpolations", _interpolations(run / "interpolations")),
        scores_section(run / "evaluations"),
        _pictures("Best and worst conditions", extremes(run / "evaluations")),
        _goodput(read_json(run / "goodput.json")),
        _profile(run / "profile" / "summary.txt"),
        folded("Configuration", config),
        folded("Machine and versions", metadata),
    ]
    name = str(metadata.get("name") or run.resolve().name)
    written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    below = f"i2i_prior run report, written {written}"
    if saved.get("hash"):
        below += f", configuration {saved['hash']}"
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(name)}</title><style>{STYLE}</style></head>"
        f"<body><main><h1>{escape(name)}</h1>"
        f'<div class="soft">{escape(below)}</div>'
        f"{''.join(sections)}</main></body></html>\n"
    )
    path = run / "report.html"
    write_bytes(path, page.encode())
    return path


def _cards(
    config: Mapping[str, Any],
    metadata: Mapping[str, Any],
    lines: Sequence[Mapping[str, float]],
) -> str:
    """The numbers one looks for first, each on a card."""

    def last(key: str) -> float | None:
        found = (line[key] for line in reversed(lines) if key in line)
        return next(found, None)

    devices, kind = metadata.get("devices"), metadata.get("device_kind")
    if devices is not None and kind:
        devices = f"{devices} x {kind}"
    parameters = metadata.get("parameters")
    trained = metadata.get("trained_parameters", parameters)
    if trained != parameters:
        parameters = f"{short(parameters)} ({short(trained)} trained)"
    utilisation, goodput = last("mfu"), last("goodput")
    step = last("step")
    cards = {
        "status": metadata.get("status"),
        "steps": None if step is None else f"{int(step):,}",
        "last loss": last("loss"),
        "examples / s": last("examples_per_second"),
        "goodput": None if goodput is None else f"{100 * goodput:.1f} %",
        "MFU": None if utilisation is None else f"{100 * utilisation:.1f} %",
        "parameters": parameters,
        "FLOPs / step": metadata.get("flops_per_step"),
        "devices": devices,
        "wall time": _duration(lines),
    }
    if cards["status"] is None and step is not None:
        cards["status"] = _status(config, step)
    boxes = [
        f'<div class="card"><span>{escape(name)}</span>'
        f"<b>{escape(short(value))}</b></div>"
        for name, value in cards.items()
        if value is not None
    ]
    return f'<div class="cards">{"".join(boxes)}</div>' if boxes else ""


def _status(config: Mapping[str, Any], step: float) -> str | None:
    total = dict(flatten(config)).get("train.steps")
    if not isinstance(total, int) or total <= 0:
        return None
    return "complete" if step >= total else f"{100 * step / total:.0f} % done"


def _duration(lines: Sequence[Mapping[str, float]]) -> str | None:
    """Wall time between log lines; breaks of an hour and more are left out."""
    times = [line["time"] for line in lines if "time" in line]
    if len(times) < 2:
        return None
    gaps = np.diff(times)
    seconds = int(gaps[(gaps > 0) & (gaps < 3600)].sum())
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return f"{hours} h {minutes:02} min" if hours else f"{seconds / 60:.1f} min"


def _samples(folder: Path) -> str:
    """The newest sample grid large, up to eight earlier ones in a strip."""
    found = [path for path in folder.glob("*.png") if path.stem.isdigit()]
    found.sort(key=lambda path: int(path.stem))
    pictures = [(int(path.stem), path) for path in found if readable(path)]
    if not pictures:
        return ""
    *earlier, (step, newest) = pictures
    body = (
        f'<figure class="wide"><figcaption>step {step:,}</figcaption>'
        f"{embedded(newest, f'samples at step {step}')}</figure>"
    )
    if earlier:
        chosen = np.linspace(0, len(earlier) - 1, min(8, len(earlier)))
        figures = [
            f"<figure>{embedded(path, f'samples at step {step}', 420)}"
            f"<figcaption>step {step:,}</figcaption></figure>"
            for step, path in (earlier[round(index)] for index in chosen)
        ]
        body += f'<div class="strip">{"".join(figures)}</div>'
    return section("Samples", body)


def _interpolations(folder: Path) -> list[Path]:
    """Up to twelve strips and animations between two images."""
    return sorted([*folder.glob("*.png"), *folder.glob("*.gif")])[:12]


def _pictures(title: str, paths: Sequence[Path]) -> str:
    """Those of the pictures that are there, each with its name below."""
    figures = [
        f'<figure class="wide">{embedded(path, path.stem)}'
        f"<figcaption>{escape(path.stem)}</figcaption></figure>"
        for path in paths
        if readable(path)
    ]
    return section(title, "".join(figures))


def _goodput(ledger: Mapping[str, Any]) -> str:
    """Where the wall time since the run's first start went."""
    seconds = ledger.get("seconds")
    if not isinstance(seconds, dict) or not sum(seconds.values()):
        return ""
    total = sum(seconds.values())
    rows = "".join(
        f"<tr><th>{escape(kind.replace('_', ' '))}</th>"
        f'<td class="number">{value:,.1f} s</td>'
        f'<td class="number">{value / total:.1%}</td></tr>'
        for kind, value in sorted(seconds.items(), key=lambda item: -item[1])
    )
    return section(
        "Where the time went",
        f'<div class="scroll"><table>{rows}</table></div>',
    )


def _profile(file: Path) -> str:
    """The top operations of the last trace."""
    try:
        text = file.read_text("utf-8")
    except OSError:
        return ""
    return section(
        "Top operations", f'<pre class="scroll">{escape(text)}</pre>'
    )
