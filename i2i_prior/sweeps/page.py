"""SWEEP/status.html: counts, all curves over training FLOPs, every run.

One file without network or scripts, in the style of a run's report.
"""

from __future__ import annotations

import base64
import io
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.io.disk import write_errors
from i2i_prior.io.files import write_bytes
from i2i_prior.report.html import STYLE, escape, section, short
from i2i_prior.sweeps.run.progress import duration
from i2i_prior.sweeps.run.state import STATES, RunState, seconds_left
from i2i_prior.sweeps.run.store import Sweep
from i2i_prior.training.telemetry.metric_writer import read_metrics

_POINTS = 60  # of a curve that are drawn
_LEGEND = 10  # sizes that are named; of more, some
_COLUMNS = (
    *("run", "role", "state", "tries", "step", "steps", "parameters"),
    *("FLOPs", "loss", "metric", "examples/s", "ETA", "host"),
)
_WORDS = ("run", "role", "state", "host")  # the others are numbers
_STYLE = """
.runs th,.runs td{white-space:nowrap;text-align:right}
.runs .word{text-align:left}
"""


def write_page(sweep: Sweep, found: Sequence[RunState]) -> Path:
    """Writes it, beside and renamed; returns its path.

    Args:
      sweep: the sweep.
      found: of `state.states`.

    Raises:
      UserError: where it cannot be written.
    """
    name = str(sweep.facts["name"])
    metric = str(sweep.facts.get("metric", "validation/ema_uniform"))
    lines = {s.run.id: read_metrics(sweep.workdir(s.run.id)) for s in found}
    written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    source = sweep.facts.get("source", "")
    below = f"i2i_prior sweep, written {written}, planned from {source}"
    body = [
        _cards(found),
        section("Validation", _figure(found, lines, metric, metric)),
        section("Training", _figure(found, lines, "loss", "training loss")),
        section("Why runs stand still", _causes(found)),
        section("Runs", _table(found)),
    ]
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(name)}</title><style>{STYLE}{_STYLE}</style></head>"
        f"<body><main><h1>{escape(name)}</h1>"
        f'<div class="soft">{escape(below)}</div>'
        f"{''.join(body)}</main></body></html>\n"
    )
    path = sweep.path / "status.html"
    with write_errors(path, "free space or make the sweep's folder writable"):
        write_bytes(path, text.encode())
    return path


def _cards(found: Sequence[RunState]) -> str:
    work = sum(state.run.flops for state in found)
    done = sum(state.share * state.run.flops for state in found)
    left = seconds_left(found)
    cards: dict[str, Any] = {
        state: sum(one.state == state for one in found) for state in STATES
    }
    cards = {name: count for name, count in cards.items() if count}
    cards["training FLOPs"] = f"{work:.3g}"
    cards["of them done"] = f"{done / work if work else 0:.1%}"
    if left is not None:
        cards["time left"] = duration(left)
    boxes = [
        f'<div class="card"><span>{escape(name)}</span>'
        f"<b>{escape(value)}</b></div>"
        for name, value in cards.items()
    ]
    return f'<div class="cards">{"".join(boxes)}</div>'


def _figure(
    found: Sequence[RunState],
    lines: dict[str, list[dict[str, float]]],
    key: str,
    label: str,
) -> str:
    """A picture of a curve a run, coloured by its size; "" of none."""
    curves = []
    for state in found:
        points = [
            (line["step"] / state.run.steps * state.run.flops, line[key])
            for line in lines[state.run.id]
            if math.isfinite(line.get(key, math.nan)) and line.get("step")
        ]
        if points:
            curves.append((state, *_thinned(np.array(points)).T))
    if not curves:
        return ""
    sizes = sorted({state.run.parameters for state in found})
    picture = base64.b64encode(_drawn(curves, sizes, label)).decode()
    return (
        '<figure class="wide"><figcaption>'
        f"{len(curves)} runs; where lines are close, means of them; x marks a "
        "run that diverged</figcaption>"
        f'<img alt="{escape(label)} over training FLOPs" '
        f'src="data:image/png;base64,{picture}"></figure>'
    )


def _thinned(points: np.ndarray) -> np.ndarray:
    """Points (n, 2) as a logarithmic axis shows them: the first ones, then
    means of ever more neighbours, which are smoother, too."""
    if len(points) <= _POINTS:
        return points
    places = np.geomspace(1, len(points) + 1, _POINTS)
    edges = np.unique(places.round().astype(int)) - 1
    starts, ends = edges[:-1], edges[1:]
    means = np.add.reduceat(points, starts) / (ends - starts)[:, None]
    # Means of FLOPs would end before the run does.
    means[:, 0] = points[ends - 1, 0]
    return means


def _drawn(
    curves: Sequence[tuple[RunState, np.ndarray, np.ndarray]],
    sizes: Sequence[int],
    label: str,
) -> bytes:
    """A PNG, log-log; a size has one colour in all of them."""
    from matplotlib import colormaps, ticker
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    shades = colormaps["viridis"](np.linspace(0, 0.92, len(sizes)))
    colours = dict(zip(sizes, shades, strict=True))
    figure = Figure(figsize=(10, 5.2), layout="constrained")
    axes = figure.subplots()
    for state, xs, ys in curves:
        colour = colours[state.run.parameters]
        axes.plot(xs, ys, color=colour, linewidth=1.2, alpha=0.85)
        mark = "x" if state.state == "diverged" else "o"
        size = 7 if mark == "x" else 6 if len(xs) == 1 else 3
        axes.plot(xs[-1], ys[-1], mark, color=colour, markersize=size)
    axes.set_xscale("log")
    # A spike of one run must not flatten all others.
    everything = np.concatenate([ys for _, _, ys in curves])
    low, high = np.percentile(everything, [0, 99.5])
    if low > 0:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.03, max(high, low * 1.05) * 1.03)
        if high < 30 * low:
            axes.yaxis.set_major_locator(ticker.MaxNLocator(7))
            axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%.3g"))
            axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlabel("training FLOPs")
    axes.set_ylabel(label)
    axes.grid(alpha=0.25)
    chosen = np.linspace(0, len(sizes) - 1, min(len(sizes), _LEGEND))
    named = [sizes[round(place)] for place in chosen]
    axes.legend(
        [Line2D([], [], color=colours[size], linewidth=2) for size in named],
        [short(size) for size in named],
        title="parameters",
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
    )
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    return picture.getvalue()


def _causes(found: Sequence[RunState]) -> str:
    rows = "".join(
        f"<tr><th>{escape(state.run.name)}</th><td>{escape(state.state)}</td>"
        f'<td class="value">{escape(state.cause)}</td></tr>'
        for state in found
        if state.cause
    )
    return f'<div class="scroll"><table>{rows}</table></div>' if rows else ""


def _table(found: Sequence[RunState]) -> str:
    order = {state: place for place, state in enumerate(STATES)}
    classes = [' class="word"' * (name in _WORDS) for name in _COLUMNS]

    def row(tag: str, texts: Sequence[Any]) -> str:
        cells = zip(classes, texts, strict=True)
        inside = "".join(
            f"<{tag}{kind}>{escape(text)}</{tag}>" for kind, text in cells
        )
        return f"<tr>{inside}</tr>"

    rows = [
        row("td", _cells(state))
        for state in sorted(found, key=lambda state: order[state.state])
    ]
    return (
        f'<div class="scroll runs"><table>{row("th", _COLUMNS)}'
        f"{''.join(rows)}</table></div>"
    )


def _cells(state: RunState) -> tuple[str, ...]:
    run, progress = state.run, state.progress
    left = state.seconds_left

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.4g}"

    return (
        run.name,
        run.role,
        state.state,
        str(state.attempts or ""),
        f"{progress.step:,}",
        f"{run.steps:,}",
        short(run.parameters),
        f"{run.flops:.3g}",
        number(progress.loss),
        number(progress.metric),
        number(progress.examples_per_second if left is not None else None),
        "" if left is None else duration(left),
        state.host,
    )
