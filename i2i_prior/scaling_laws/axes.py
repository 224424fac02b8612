"""What all pictures of a fit have alike: ticks, grid, legend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def spare(axis: Any) -> None:
    """Ticks of a log axis that stay few and apart over any range."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = sorted(axis.get_view_interval())
    decades = np.log10(high / low)
    steps: tuple[float, ...] = (1.0,) if decades > 2.5 else (1.0, 3.0)
    if decades < 1.2:
        steps = (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=steps, numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
    axis.set_minor_formatter(NullFormatter())


def finish(axes: Axes, x: str, y: str, scale: str) -> None:
    """Labels, grid and legend; `scale` is that of x."""
    axes.set_xscale(scale)
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            spare(axis)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25, which="major")
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False)


def colour_of(place: int, many: int) -> Any:
    """Of the place-th of so many sizes or budgets."""
    from matplotlib import colormaps

    return colormaps["viridis"](0.9 * place / max(many - 1, 1))
