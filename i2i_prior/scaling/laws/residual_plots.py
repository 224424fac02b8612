"""Pictures of what a parametric fit leaves, and of how sure it is."""

from __future__ import annotations

from typing import Any

import numpy as np

from i2i_prior.scaling.laws.fitting import Fitted
from i2i_prior.scaling.laws.parametric import NAMES
from i2i_prior.scaling.laws.points import column, groups
from i2i_prior.scaling.laws.uncertainty import log_loss

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
    axes.set_xlabel("training compute C (FLOPs)")
    axes.set_ylabel("measured over predicted, less 1 (%)")
    axes.plot([], [], "k-", lw=2, label="median of a budget")
    axes.legend(fontsize=8, frameon=False)
    axes.grid(alpha=0.25)
    figure.colorbar(spots, label="log10 of parameters N")


def _held(fitted: Fitted) -> list:
    return fitted.table.of("holdout")


def gaps_of(fitted: Fitted, points: list) -> np.ndarray:
    """log measured - log predicted (k,) of runs by the parametric law."""
    assert fitted.law is not None
    n, d, loss = (column(points, name) for name in ("n", "d", "loss"))
    return np.log(loss) - log_loss(fitted.law.values, n, d)


def pairs(figure: Any, fitted: Fitted) -> None:
    """Each two of the parameters, refit by refit, the fit itself marked."""
    assert fitted.law is not None
    figure.set_size_inches(7.6, 7.4)
    grid = figure.subplots(5, 5, sharex="col")
    draws = fitted.law.draws[:SHOWN]
    names = list(NAMES)
    values = fitted.law.values
    for k in (1, 2):  # they run over decades
        draws, values = draws.copy(), values.copy()
        draws[:, k] = np.log10(np.maximum(draws[:, k], 1e-300))
        values[k] = np.log10(values[k])
        names[k] = f"log10 {names[k]}"
    for row in range(5):
        for place in range(5):
            axes = grid[row][place]
            if place > row:
                axes.set_visible(False)
                continue
            if place == row:
                middle = values[row]
                # Draws of a law without noise are all alike.
                room = max(np.ptp(draws[:, row]), 1e-6 * abs(middle), 1e-9)
                ends = (middle - room, middle + room)
                axes.hist(
                    draws[:, row], 48, range=ends, color="tab:blue", alpha=0.6
                )
                axes.set_xlim(
                    draws[:, row].min() - room / 20,
                    draws[:, row].max() + room / 20,
                )
                axes.axvline(values[row], color="crimson", lw=1)
                axes.set_yticks([])
            else:
                axes.plot(draws[:, place], draws[:, row], ".", ms=2, alpha=0.5)
                axes.plot(values[place], values[row], "+", color="crimson")
                axes.tick_params(labelleft=place == 0)
            axes.tick_params(labelsize=7)
            axes.locator_params(nbins=3, axis="x")
            if place == 0 and row:
                axes.set_ylabel(names[row])
            if row == 4:
                axes.set_xlabel(names[place])
