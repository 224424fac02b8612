"""Pictures of what a parametric fit leaves, and of how sure it is."""

from __future__ import annotations

from typing import Any

import numpy as np

from i2i_prior.scaling_laws.axes import spare
from i2i_prior.scaling_laws.fitting import Fitted
from i2i_prior.scaling_laws.parametric import NAMES
from i2i_prior.scaling_laws.points import column, groups
from i2i_prior.scaling_laws.residuals import gaps_of

METRICS = 4  # pictures of one page
SHOWN = 400  # draws: more make one blot


def residuals(figure: Any, fitted: Fitted) -> None:
    """Residuals over compute, coloured by size: any order is misfit."""
    axes = figure.subplots()
    sizes = np.log10(column(fitted.points + _held(fitted), "n"))
    for points, marker in ((fitted.points, "o"), (_held(fitted), "D")):
        if not points:
            continue
        gaps = 100 * np.expm1(gaps_of(fitted, points))
        spots = axes.scatter(
            column(points, "c"),
            gaps,
            c=np.log10(column(points, "n")),
            cmap="viridis",
            vmin=sizes.min(),
            vmax=sizes.max(),
            marker=marker,
            s=24,
            label="fitted" if marker == "o" else "held out",
        )
    for group in groups(fitted.points):
        middle = 100 * np.expm1(np.median(gaps_of(fitted, group)))
        c = np.exp(np.log(column(group, "c")).mean())
        axes.plot([c / 1.15, c * 1.15], [middle, middle], "k-", lw=2)
    axes.axhline(0, color="0.5", lw=0.8)
    axes.set_xscale("log")
    spare(axes.xaxis)
    axes.set_xlabel("training compute C (FLOPs)")
    axes.set_ylabel("measured over predicted, less 1 (%)")
    axes.plot([], [], "k-", lw=2, label="median of a budget")
    axes.legend(fontsize=8, frameon=False)
    axes.grid(alpha=0.25)
    figure.colorbar(spots, label="log10 of parameters N")


def metrics(figure: Any, fitted: Fitted) -> None:
    """Other metrics of the runs over their loss, coloured by compute."""
    shown = fitted.others[:METRICS]
    figure.set_size_inches(7.2, 3.2 * ((len(shown) + 1) // 2) + 0.8)
    grid = figure.subplots((len(shown) + 1) // 2, min(len(shown), 2))
    places = np.ravel(grid)
    shades = np.log10(np.concatenate([other.flops for other in shown]))
    ends = {"vmin": shades.min(), "vmax": shades.max()}
    for axes, other in zip(places, shown, strict=False):
        spots = axes.scatter(
            other.loss, other.values, c=np.log10(other.flops), **ends
        )
        axes.set_xlabel(fitted.table.metric)
        axes.set_ylabel(other.name)
        alike = np.isnan(other.spearman)
        rank = "all alike" if alike else f"Spearman {other.spearman:.2f}"
        title = f"{rank}, {len(other.values)} runs"
        axes.set_title(title, fontsize=9)
        axes.grid(alpha=0.25)
        axes.locator_params(axis="x", nbins=5)
    for axes in places[len(shown) :]:
        axes.set_visible(False)
    figure.colorbar(spots, ax=list(places), label="log10 of FLOPs")


def _held(fitted: Fitted) -> list:
    return fitted.table.of("holdout")


def least_room(draws: np.ndarray, middle: float) -> float:
    """Their range; more than 0 where draws without noise are all alike."""
    return max(float(np.ptp(draws)), 1e-6 * abs(middle), 1e-9)


def pairs(figure: Any, fitted: Fitted) -> None:
    """Each two of the parameters, refit by refit, the fit itself marked."""
    assert fitted.law is not None
    figure.set_size_inches(7.6, 7.4)
    figure.set_layout_engine("none")  # it takes a second for this many
    room = {"left": 0.1, "right": 0.98, "bottom": 0.07, "top": 0.99}
    places = figure.add_gridspec(5, 5, wspace=0.15, hspace=0.15, **room)
    draws = fitted.law.draws[:SHOWN]
    names = list(NAMES)
    values = fitted.law.values
    for k in (1, 2):  # they run over decades
        draws, values = draws.copy(), values.copy()
        draws[:, k] = np.log10(np.maximum(draws[:, k], 1e-300))
        values[k] = np.log10(values[k])
        names[k] = f"log10 {names[k]}"
    for row in range(5):
        for place in range(row + 1):
            axes = figure.add_subplot(places[row, place])
            if place == row:
                middle = values[row]
                wide = least_room(draws[:, row], middle)
                ends = (middle - wide, middle + wide)
                axes.hist(
                    draws[:, row], 48, range=ends, color="tab:blue", alpha=0.6
                )
                axes.axvline(values[row], color="crimson", lw=1)
                axes.set_yticks([])
            else:
                axes.plot(draws[:, place], draws[:, row], ".", ms=2, alpha=0.5)
                axes.plot(values[place], values[row], "+", color="crimson")
                axes.tick_params(labelleft=place == 0)
                axes.locator_params(nbins=4, axis="y")
            low, high = draws[:, place].min(), draws[:, place].max()
            space = least_room(draws[:, place], values[place]) / 20
            axes.set_xlim(low - space, high + space)
            axes.tick_params(labelsize=7, labelbottom=row == 4)
            axes.locator_params(nbins=3, axis="x")
            if place == 0 and row:
                axes.set_ylabel(names[row])
            if row == 4:
                axes.set_xlabel(names[place])
