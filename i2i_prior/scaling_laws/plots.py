"""The pictures of a fit: PNG files, one idea each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from i2i_prior.io.disk import write_errors
from i2i_prior.scaling_laws.axes import colour_of, finish
from i2i_prior.scaling_laws.bootstrap import interval
from i2i_prior.scaling_laws.fitting import Fitted
from i2i_prior.scaling_laws.isoflop import PowerLaw
from i2i_prior.scaling_laws.points import column, groups
from i2i_prior.scaling_laws.uncertainty import log_loss, optimum

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FLOPS = "training compute C (FLOPs)"
SIZE = "parameters N"


def draw(folder: Path, fitted: Fitted) -> list[tuple[Path, str]]:
    """Draws what there is to draw: [(file, what it shows)].

    Raises:
      UserError: where a picture cannot be written.
    """
    from i2i_prior.scaling_laws.rate_plots import learning_rates
    from i2i_prior.scaling_laws.residual_plots import metrics, pairs, residuals

    made: list[tuple[str, str, Callable | None]] = [
        ("isoflop", "isoFLOP curves and their parabolas", isoflop),
        ("optima", "compute-optimal size and data, with 95 % bands", optima),
        ("loss_vs_c", "lowest loss over compute", loss_vs_c),
        ("contour", "the parametric law and its efficient frontier", contour),
        ("residuals", "measured over predicted loss", residuals),
        ("pairs", "refits to redrawn noise", pairs),
        ("rates", "loss over learning rate, size by size", learning_rates),
        ("metrics", "other metrics over the loss", metrics),
    ]
    there = {
        "isoflop": fitted.isoflop,
        "optima": fitted.isoflop or frontier(fitted, _compute(fitted)),
        "loss_vs_c": True,
        "contour": fitted.law,
        "residuals": fitted.law,
        "pairs": fitted.law,
        "rates": fitted.rates,
        "metrics": fitted.others,
    }
    return [
        (saved(folder / f"{name}.png", fitted, picture), what)
        for name, what, picture in made
        if there[name] and picture
    ]


def saved(path: Path, fitted: Any, picture: Callable) -> Path:
    """Writes one picture; `picture` fills the figure it is given.

    Raises:
      UserError: where it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from i2i_prior.io.files import atomic_path

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    picture(figure, fitted)
    with write_errors(path, "free space or choose another --out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as beside:
            figure.savefig(beside, dpi=110, format="png")
    return path


def isoflop(figure: Any, fitted: Fitted) -> None:
    """Loss over size, budget by budget, with parabolas and optima."""
    axes = figure.subplots()
    curves = fitted.isoflop.curves if fitted.isoflop else []
    for place, curve in enumerate(curves):
        colour = colour_of(place, len(curves))
        centre = np.log(curve.n).mean()
        fine = np.linspace(np.log(curve.n[0]), np.log(curve.n[-1]), 100)
        fit = np.polyval(curve.parabola[::-1], fine - centre)
        axes.plot(np.exp(fine), fit, color=colour, lw=1.3)
        label = f"{curve.c:.2g} FLOPs"
        axes.plot(curve.n, curve.loss, "o", color=colour, ms=4, label=label)
        inside = "none" if curve.edge else "crimson"
        axes.plot(
            *(curve.n_opt, curve.loss_opt, "*"),
            **{"color": "crimson", "mfc": inside, "ms": 11, "zorder": 4},
        )
        lowest = np.interp(np.log(curve.akima), np.log(curve.n), curve.loss)
        axes.plot(curve.akima, lowest, "kx", ms=7, zorder=5)
    axes.plot([], [], "*", color="crimson", ms=10, label="vertex")
    if any(curve.edge for curve in curves):
        label = "at the edge of its sizes"
        axes.plot([], [], "*", color="crimson", mfc="none", ms=10, label=label)
    axes.plot([], [], "kx", label="Akima's lowest")
    finish(axes, SIZE, fitted.table.metric, "log")


def optima(figure: Any, fitted: Fitted) -> None:
    """N_opt and D_opt over compute: both ways of finding them."""
    left, right = figure.subplots(1, 2)
    c = _compute(fitted)
    found = fitted.isoflop
    for axes, name, place in ((left, "n_opt", 0), (right, "d_opt", 1)):
        if found is not None:
            law: PowerLaw = getattr(found, name)
            _power_band(axes, law, found.freedom, c)
            axes.plot(
                [curve.c for curve in found.curves],
                [getattr(curve, name) for curve in found.curves],
                "*",
                color="crimson",
                ms=9,
                label="vertices",
            )
        best = frontier(fitted, c)
        if best is not None and fitted.law is not None:
            (centre, draws), freedom = best[place], fitted.law.freedom
            _band(axes, c, centre, draws, freedom, "parametric")
        axes.set_yscale("log")
        finish(axes, FLOPS, SIZE if place == 0 else "tokens D", "log")


def _compute(fitted: Fitted) -> np.ndarray:
    c = column(fitted.table.of("fit") + fitted.table.of("holdout"), "c")
    return np.geomspace(c.min(), c.max() * 3, 60)


def frontier(
    fitted: Fitted, c: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Optimal N and D (k,) at budgets c, each with its draws (b, k).

    None where the parametric law has no optimum.
    """
    if fitted.law is None:
        return None
    found = [optimum(fitted.law.values, fitted.cost, x) for x in c]
    drawn = [optimum(fitted.law.draws, fitted.cost, x) for x in c]
    centres, draws = np.array(found, float), np.array(drawn).T
    if not np.isfinite(centres).all():
        return None
    return [(centres[:, 0], draws[:, 0]), (centres[:, 1], draws[:, 1])]


def _power_band(axes: Axes, law: PowerLaw, freedom: int, c: np.ndarray) -> None:
    draws = np.array([law.drawn(x) for x in c]).T
    name = f"isoFLOP, C^{law.exponent:.3f}"
    _band(axes, c, law(c), draws, freedom, name, "tab:orange")


def _band(
    axes: Axes,
    c: np.ndarray,
    centre: np.ndarray,
    draws: np.ndarray,
    freedom: int,
    label: str,
    colour: str = "tab:blue",
) -> None:
    """A line with its 95 % band, of draws (b, k), by logarithms."""
    with np.errstate(all="ignore"):
        ends = np.exp(interval(np.log(centre), np.log(draws), freedom))
    axes.fill_between(c, ends[0], ends[1], color=colour, alpha=0.2, lw=0)
    axes.plot(c, centre, color=colour, lw=1.4, label=label)


def loss_vs_c(figure: Any, fitted: Fitted) -> None:
    """All runs, the lowest losses, laws over compute, and held-out runs."""
    axes = figure.subplots()
    for curve in fitted.table.curves:
        axes.plot(curve.flops, curve.loss, color="0.8", lw=0.8, zorder=1)
    points = fitted.points
    axes.plot(
        column(points, "c"), column(points, "loss"), "o", color="0.6", ms=3
    )
    c = _compute(fitted)
    found, law = fitted.isoflop, fitted.law
    if found is not None:
        _power_band(axes, found.loss, found.freedom, c)
        axes.plot(
            [curve.c for curve in found.curves],
            [curve.loss_opt for curve in found.curves],
            "*",
            color="crimson",
            ms=9,
            label="vertices",
        )
    best = frontier(fitted, c)
    if best is not None and law is not None:
        (n, many_n), (d, many_d) = best
        e, a, b, alpha, beta = law.draws.T[..., None]
        with np.errstate(all="ignore"):
            draws = e + a * many_n**-alpha + b * many_d**-beta
        centre = np.exp(log_loss(law.values, n, d))
        _band(axes, c, centre, draws, law.freedom, "parametric")
    if fitted.envelope is not None:
        axes.plot(
            fitted.envelope.flops,
            fitted.envelope.loss,
            color="black",
            lw=1,
            ls=":",
            label="envelope",
        )
    held = fitted.table.of("holdout")
    if held:
        axes.plot(
            column(held, "c"),
            column(held, "loss"),
            "D",
            color="tab:green",
            ms=5,
            label="held out",
        )
    finish(axes, FLOPS, fitted.table.metric, "log")


def contour(figure: Any, fitted: Fitted) -> None:
    """Loss over N and D, the runs, and where a budget is spent best."""
    axes = figure.subplots()
    points = fitted.points + fitted.table.of("holdout")
    n, d, loss = (column(points, name) for name in ("n", "d", "loss"))
    assert fitted.law is not None
    n_axis = np.geomspace(n.min() / 1.5, n.max() * 1.5, 80)
    d_axis = np.geomspace(d.min() / 1.5, d.max() * 1.5, 80)
    grid = np.exp(
        log_loss(
            fitted.law.values,
            *(part.ravel() for part in np.meshgrid(n_axis, d_axis)),
        )
    ).reshape(80, 80)
    lines = axes.contour(n_axis, d_axis, grid, 12, cmap="viridis", zorder=1)
    axes.clabel(lines, fontsize=8, fmt="%.3g")
    spots = axes.scatter(
        n, d, c=loss, cmap="viridis", edgecolor="k", lw=0.4, s=22, zorder=3
    )
    best = frontier(fitted, _compute(fitted))
    if best is not None:
        line = [centre for centre, _ in best]
        axes.plot(*line, color="crimson", lw=1.6, label="frontier")
    axes.set_xlim(n_axis[[0, -1]])
    axes.set_ylim(d_axis[[0, -1]])
    axes.set_yscale("log")
    figure.colorbar(spots, label=f"{fitted.table.metric} of runs")
    finish(axes, SIZE, "tokens D", "log")


def budgets(fitted: Fitted) -> list[tuple[float, list]]:
    """(FLOPs, runs) of each budget."""
    return [
        (float(np.exp(np.log(column(group, "c")).mean())), group)
        for group in groups(fitted.points)
    ]
