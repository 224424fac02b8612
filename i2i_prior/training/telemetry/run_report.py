"""RUN/report.html: overview of a run on one page.

One file without network, scripts or fonts: curves and pictures are inline.
Sections of files that are not there are left out.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.io.files import read_json_or_empty
from i2i_prior.report.charts import plots
from i2i_prior.report.html import (
    cards,
    embedded,
    escape,
    figure,
    flatten,
    folded,
    readable,
    section,
    short,
    table,
    write_page,
)
from i2i_prior.training.telemetry.goodput import merge_kinds
from i2i_prior.training.telemetry.metric_writer import read_metrics
from i2i_prior.training.telemetry.report_evaluations import (
    extremes,
    losses_section,
    metrics_section,
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
_LINEAR = tuple(key for key, _ in _CURVES if key not in ("loss", "grad_norm"))


def write_report(workdir: str | os.PathLike[str]) -> Path:
    """Writes `workdir`/report.html from the files of the run so far; its path.

    UserError if `workdir` is no folder, OSError if the page cannot be written.
    """
    run = Path(workdir)
    if not run.is_dir():
        raise UserError(f"there is no run directory {run}")
    saved = read_json_or_empty(run / "config.json")
    config = saved.get("config", saved)
    metadata = read_json_or_empty(run / "metadata.json")
    modules = metadata.pop("modules", None)
    lines = [line for line in read_metrics(run) if "step" in line]
    walks = [
        path
        for path in (run / "interpolations").glob("*")
        if path.suffix in (".png", ".gif")
    ]
    sections = [
        _cards(config, metadata, lines),
        section("Training", plots(lines, _CURVES, _LINEAR)),
        losses_section(run),
        _samples(run / "samples"),
        _pictures("Variations", [run / "variations" / "grid.png"]),
        _pictures("Interpolations", sorted(walks)[:12]),
        metrics_section(run / "evaluations"),
        _pictures("Best and worst conditions", extremes(run / "evaluations")),
        _goodput(read_json_or_empty(run / "goodput.json")),
        _profile(run / "profile" / "summary.txt"),
        _parameters(modules),
        folded("Configuration", config),
        folded("Machine and versions", metadata),
    ]
    name = str(metadata.get("name") or run.resolve().name)
    subtitle = "i2i_prior run report"
    if saved.get("hash"):
        subtitle += f", configuration {saved['hash']}"
    return write_page(run / "report.html", name, subtitle, "".join(sections))


def _cards(
    config: Mapping[str, Any],
    metadata: Mapping[str, Any],
    lines: Sequence[Mapping[str, float]],
) -> str:
    """Key numbers of the run, each on a card."""

    def last(key: str) -> float | None:
        found = (line[key] for line in reversed(lines) if key in line)
        return next(found, None)

    def percent(key: str) -> str | None:
        value = last(key)
        return None if value is None else f"{100 * value:.1f} %"

    devices, kind = metadata.get("devices"), metadata.get("device_kind")
    if devices is not None and kind:
        devices = f"{devices} x {kind}"
    parameters = metadata.get("parameters")
    trained = metadata.get("trained_parameters", parameters)
    if trained != parameters:
        parameters = f"{short(parameters)} ({short(trained)} trained)"
    step = last("step")
    return cards(
        {
            "status": None if step is None else _status(config, step),
            "steps": None if step is None else f"{int(step):,}",
            "last loss": last("loss"),
            "examples / s": last("examples_per_second"),
            "goodput": percent("goodput"),
            "MFU": percent("mfu"),
            "parameters": parameters,
            "FLOPs / step": metadata.get("flops_per_step"),
            "devices": devices,
            "wall time": _duration(lines),
        }
    )


def _status(config: Mapping[str, Any], step: float) -> str | None:
    total = dict(flatten(config)).get("train.steps")
    if not isinstance(total, int) or total <= 0:
        return None
    return "complete" if step >= total else f"{100 * step / total:.0f} % done"


def _duration(lines: Sequence[Mapping[str, float]]) -> str | None:
    """Wall time between log lines, without breaks of an hour and more."""
    times = [line["time"] for line in lines if "time" in line]
    if len(times) < 2:
        return None
    gaps = np.diff(times)
    seconds = int(gaps[(gaps > 0) & (gaps < 3600)].sum())
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return f"{hours} h {minutes:02} min" if hours else f"{seconds / 60:.1f} min"


def _samples(folder: Path) -> str:
    """Newest sample grid, and up to eight earlier ones small in a strip."""
    found = [path for path in folder.glob("*.png") if path.stem.isdigit()]
    found.sort(key=lambda path: int(path.stem))
    pictures = [(int(path.stem), path) for path in found if readable(path)]
    if not pictures:
        return ""

    def picture(grid: tuple[int, Path], width: int | None, kind: str) -> str:
        step, path = grid
        image = embedded(path, f"samples at step {step}", width)
        return figure(f"step {step:,}", image, kind)

    *earlier, newest = pictures
    body = picture(newest, None, "wide")
    if earlier:
        chosen = np.linspace(0, len(earlier) - 1, min(8, len(earlier)))
        figures = [picture(earlier[round(i)], 420, "small") for i in chosen]
        body += f'<div class="strip">{"".join(figures)}</div>'
    return section("Samples", body)


def _pictures(title: str, paths: Sequence[Path]) -> str:
    """Pictures that are there, each with its name."""
    shown = [(path, path.stem) for path in paths if readable(path)]
    figures = [figure(name, embedded(path, name)) for path, name in shown]
    return section(title, "".join(figures))


def _goodput(stored: Mapping[str, Any]) -> str:
    """Wall time since the run's first start by kind, of goodput.json."""
    seconds = stored.get("seconds")
    if not isinstance(seconds, dict) or not sum(seconds.values()):
        return ""
    total = sum(seconds.values())
    kinds = sorted(merge_kinds(seconds).items(), key=lambda item: -item[1])
    rows = [
        (kind.replace("_", " "), f"{value:,.1f} s", f"{value / total:.1%}")
        for kind, value in kinds
    ]
    return section("Where the time went", table((), rows))


def _parameters(modules: Any) -> str:
    """Table of the network's modules, of metadata.json."""
    rows = [row for row in modules or [] if isinstance(row, dict)]
    if not rows:
        return ""
    head = list(rows[0])
    cells = [[row.get(name) for name in head] for row in rows]
    return section("Parameters", table(head, cells, whole=head))


def _profile(file: Path) -> str:
    """Top operations of the last trace."""
    try:
        text = file.read_text("utf-8")
    except OSError:
        return ""
    body = f'<pre class="scroll">{escape(text)}</pre>'
    return section("Top operations", body)
