"""Figures of matplotlib without a display: axes, colours, PNG files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.io.disk import write_errors
from i2i_prior.io.files import atomic_path


def save_figure(path: Path, draw: Callable[..., None], *inputs: Any) -> Path:
    """Writes a PNG that `draw(figure, *inputs)` fills. Raises UserError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure, *inputs)
    with (
        write_errors(path, "choose another --out"),
        atomic_path(path) as temporary,
    ):
        figure.savefig(temporary, dpi=110, format="png")
    return path


def finish(axes: Any, x: str, y: str) -> None:
    """Adds labels, a grid and a legend; the x axis becomes logarithmic."""
    axes.set_xscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            sparse_ticks(axis)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25, which="major")
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False)


def sparse_ticks(axis: Any) -> None:
    """Sets ticks of a log axis that are few and apart over any range."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = sorted(axis.get_view_interval())
    decades = np.log10(high / low)
    steps: tuple[float, ...] = (1.0,) if decades > 2.5 else (1.0, 3.0)
    if decades < 1.2:
        steps = (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=steps, numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
    axis.set_minor_formatter(NullFormatter())


def colour(index: int, count: int) -> Any:
    """Colour of one of `count` sizes or budgets, in order."""
    from matplotlib import colormaps

    return colormaps["viridis"](0.9 * index / max(count - 1, 1))
