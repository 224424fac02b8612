"""SWEEP/status.html: counts, curves over training FLOPs, and every run.

One file without network or scripts, in the style of a run's report.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from i2i_prior.io.disk import write_errors
from i2i_prior.report import html
from i2i_prior.sweeps.run.state import RunState, by_count, seconds_left
from i2i_prior.sweeps.run.store import Sweep
from i2i_prior.sweeps.status import by_state, cells, duration, flops_done
from i2i_prior.training.telemetry.metric_writer import read_metrics

_POINTS = 60  # drawn of a curve
_LEGEND = 10  # sizes in the legend at most
_COLUMNS = (
    *("run", "role", "state", "tries", "step", "parameters", "FLOPs"),
    *("loss", "metric", "best", "examples/s", "ETA", "host"),
)
_STYLE = ".runs th,.runs td{white-space:nowrap}"


def write_page(sweep: Sweep, found: Sequence[RunState]) -> Path:
    """Writes the page atomically; returns its path. Raises UserError."""
    lines = {s.run.id: read_metrics(sweep.workdir(s.run.id)) for s in found}
    source = sweep.facts.get("source", "")
    stopped = [(s.run.name, s.state, s.cause) for s in found if s.cause]
    rows = [
        [cells(state)[name] for name in _COLUMNS] for state in by_state(found)
    ]
    work, done = flops_done(found)
    left = seconds_left(found)
    facts: dict[str, object] = {k: v for k, v in by_count(found).items() if v}
    facts |= {
        "training FLOPs": f"{work:.3g}",
        "of them done": f"{done / work if work else 0:.1%}",
        "time left": None if left is None else duration(left),
    }
    body = [
        html.cards(facts),
        html.section("Validation", _figure(found, lines, sweep.metric)),
        html.section("Training", _figure(found, lines, "loss")),
        html.section("Why runs stand still", html.table((), stopped)),
        html.section("Runs", html.table(_COLUMNS, rows, css_class="runs")),
    ]
    path = sweep.path / "status.html"
    with write_errors(path, "make the sweep's folder writable"):
        return html.write_page(
            path,
            sweep.name,
            f"i2i_prior sweep, planned from {source}",
            "".join(body),
            _STYLE,
        )


def _figure(
    found: Sequence[RunState],
    lines: dict[str, list[dict[str, float]]],
    key: str,
) -> str:
    """Figure with a curve a run, coloured by its size; "" without curves."""
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
    label = "training loss" if key == "loss" else key
    picture = _draw(curves, sizes, label)
    return html.figure(
        f"{len(curves)} runs; where lines are close, means of them; x marks a "
        "run that diverged",
        html.picture(picture, f"{label} over training FLOPs"),
    )


def _thinned(points: np.ndarray) -> np.ndarray:
    """Averages points (n, 2) in `_POINTS` bins, wider as on a log axis."""
    if len(points) <= _POINTS:
        return points
    places = np.geomspace(1, len(points) + 1, _POINTS)
    edges = np.unique(places.round().astype(int)) - 1
    starts, ends = edges[:-1], edges[1:]
    means = np.add.reduceat(points, starts) / (ends - starts)[:, None]
    # Means of FLOPs would end before the run does.
    means[:, 0] = points[ends - 1, 0]
    return means


def _draw(
    curves: Sequence[tuple[RunState, np.ndarray, np.ndarray]],
    sizes: Sequence[int],
    label: str,
) -> bytes:
    """PNG of curves on logarithmic axes; all runs of a size share a colour."""
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
        [html.short(size) for size in named],
        title="parameters",
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
    )
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    return picture.getvalue()
