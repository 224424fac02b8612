"""Plot of a coordinate check: change over width, a line a step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from i2i_prior.models.activation_taps import PLACES

LABELS = {"standard": "standard", "mup": "muP"}


def plot(figure: Any, result: dict[str, Any]) -> None:
    """Fills a figure with the result of `coord_check.check`."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    names, slopes = list(result["slopes"]), result["slopes"]
    places = [place for place in PLACES if place in slopes[names[0]]]
    widths, steps = result["widths"], result["steps"]
    figure.set_size_inches(2.4 * len(places), 5.4)
    panels = figure.subplots(
        len(names), len(places), squeeze=False, sharex=True, sharey="col"
    )
    colours = ScalarMappable(Normalize(1, max(steps, 2)), "viridis_r")
    for line, name in zip(panels, names, strict=True):
        for panel, place in zip(line, places, strict=True):
            for step in range(1, steps + 1):
                means = [
                    _mean(result["rows"], place, name, step, width)
                    for width in widths
                ]
                colour = colours.to_rgba(np.array([step]))[0]
                panel.plot(widths, means, "o-", ms=3, lw=1.2, color=colour)
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.set_xticks(widths, [str(width) for width in widths])
            panel.xaxis.minorticks_off()
            panel.tick_params(which="both", labelsize=8)
            panel.grid(alpha=0.3)
            slope = f"{LABELS[name]}, {place}\nslope {slopes[name][place]:+.2f}"
            panel.set_title(slope, fontsize=9)
        line[0].set_ylabel("RMS change since the start", fontsize=9)
    for panel in panels[-1]:
        panel.set_xlabel("width D, channels", fontsize=9)
    bar = {"fraction": 0.02, "pad": 0.01, "ticks": MaxNLocator(integer=True)}
    figure.colorbar(colours, ax=panels, label="optimizer updates", **bar)
    figure.suptitle(
        f"Coordinate check: base width {result['base_width']}, head width "
        f"{result['head_width']}, learning rate {result['learning_rate']:g}, "
        f"seeds: {result['seeds']}",
        fontsize=10,
    )


def _mean(rows: list[dict[str, Any]], place: str, *key: Any) -> float:
    """Geometric mean over the seeds, of a parametrisation, step and width.

    NaN, which is not drawn, for a change of 0: the output kernel starts at
    zero, so that layers before it have no gradient at the first update.
    """
    fields = ("parametrisation", "step", "width")
    changes = [
        row[place] or math.nan
        for row in rows
        if key == tuple(row[field] for field in fields)
    ]
    return float(np.exp(np.mean(np.log(changes))))
