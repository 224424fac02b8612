"""Pictures of a fit: one PNG file for each idea."""

from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.scaling_laws.bootstrap import interval
from i2i_prior.scaling_laws.figures import (
    colour,
    finish,
    save_figure,
    sparse_ticks,
)
from i2i_prior.scaling_laws.fitting import LawFit
from i2i_prior.scaling_laws.parametric import NAMES
from i2i_prior.scaling_laws.points import column, groups, mean_flops
from i2i_prior.scaling_laws.power_laws import PowerLaw
from i2i_prior.scaling_laws.rank_correlation import MetricRank
from i2i_prior.scaling_laws.rates import Rate, by_series, drift
from i2i_prior.scaling_laws.uncertainty import frontier, log_loss

FLOPS = "training compute C (FLOPs)"
SIZE, TOKENS = "parameters N", "tokens D"
STAR = {"marker": "*", "ls": "none", "color": "crimson"}
METRICS = 4  # shown in one picture
SHOWN = 400  # draws in a scatter plot


def draw(folder: Path, fit: LawFit) -> list[tuple[Path, str]]:
    """Draws the parts that were fitted: [(file, caption)]. Raises UserError."""
    there = fit.law is not None
    pictures = {
        isoflop: (fit.isoflop, "isoFLOP curves and their parabolas"),
        optima: (
            fit.isoflop or _frontier(fit),
            "compute-optimal size and data, with 95 % bands",
        ),
        loss_vs_c: (True, "lowest loss over compute"),
        contour: (there, "the parametric law and its efficient frontier"),
        residuals: (there, "measured over predicted loss"),
        pairs: (there, "refits to redrawn noise"),
    }
    made = [
        (save_figure(folder / f"{picture.__name__}.png", picture, fit), caption)
        for picture, (shown, caption) in pictures.items()
        if shown
    ]
    metric = fit.table.metric
    if fit.rates:
        file = save_figure(folder / "rates.png", rates, fit.rates, metric)
        made.append((file, "loss over learning rate, size by size"))
    if fit.metrics:
        file = save_figure(folder / "metrics.png", metrics, fit.metrics, metric)
        made.append((file, "other metrics over the loss"))
    return made


def isoflop(figure: Any, fit: LawFit) -> None:
    """Plots loss over size, budget by budget, with parabolas and optima."""
    axes = figure.subplots()
    curves = fit.isoflop.curves if fit.isoflop else []
    for index, curve in enumerate(curves):
        own = {"color": colour(index, len(curves))}
        centre = np.log(curve.n).mean()
        fine = np.linspace(np.log(curve.n[0]), np.log(curve.n[-1]), 100)
        parabola = np.polyval(curve.parabola[::-1], fine - centre)
        axes.plot(np.exp(fine), parabola, lw=1.3, **own)
        label = f"{curve.c:.2g} FLOPs"
        axes.plot(curve.n, curve.loss, "o", ms=4, label=label, **own)
        star = STAR | {"mfc": "none"} if curve.edge else STAR
        axes.plot(curve.n_opt, curve.loss_opt, ms=11, zorder=4, **star)
        lowest = np.interp(np.log(curve.akima), np.log(curve.n), curve.loss)
        axes.plot(curve.akima, lowest, "kx", ms=7, zorder=5)
    axes.plot([], [], ms=10, label="vertex", **STAR)
    if any(curve.edge for curve in curves):
        label = "at the edge of its sizes"
        axes.plot([], [], mfc="none", ms=10, label=label, **STAR)
    axes.plot([], [], "kx", label="Akima's lowest")
    finish(axes, SIZE, fit.table.metric)


def optima(figure: Any, fit: LawFit) -> None:
    """Plots N_opt and D_opt over compute by both kinds of law."""
    found, best, c = fit.isoflop, _frontier(fit), _compute(fit)
    for index, axes in enumerate(figure.subplots(1, 2)):
        if found is not None:
            name = ("n_opt", "d_opt")[index]
            _power_band(axes, getattr(found, name), found.freedom, c)
            _vertices(axes, fit, name)
        if best is not None and fit.law is not None:
            _band(axes, c, *best[index], fit.law.freedom, "parametric")
        axes.set_yscale("log")
        finish(axes, FLOPS, (SIZE, TOKENS)[index])


def loss_vs_c(figure: Any, fit: LawFit) -> None:
    """Plots runs, lowest losses, laws and held-out runs over compute."""
    axes = figure.subplots()
    for curve in fit.table.curves:
        axes.plot(curve.flops, curve.loss, color="0.8", lw=0.8, zorder=1)
    c, loss = (column(fit.points, name) for name in ("c", "loss"))
    axes.plot(c, loss, "o", color="0.6", ms=3)
    found, law, best, c = fit.isoflop, fit.law, _frontier(fit), _compute(fit)
    if found is not None:
        _power_band(axes, found.loss, found.freedom, c)
        _vertices(axes, fit, "loss_opt")
    if best is not None and law is not None:
        (n, many_n), (d, many_d) = best
        e, a, b, alpha, beta = law.draws.T[..., None]
        with np.errstate(all="ignore"):
            draws = e + a * many_n**-alpha + b * many_d**-beta
        centre = np.exp(log_loss(law.values, n, d))
        _band(axes, c, centre, draws, law.freedom, "parametric")
    if lowest := fit.envelope:
        style = {"color": "black", "lw": 1, "ls": ":", "label": "envelope"}
        axes.plot(lowest.flops, lowest.loss, **style)
    if held := fit.table.of("holdout"):
        style = {"color": "tab:green", "ms": 5, "label": "held out"}
        axes.plot(column(held, "c"), column(held, "loss"), "D", **style)
    finish(axes, FLOPS, fit.table.metric)


def contour(figure: Any, fit: LawFit) -> None:
    """Plots loss over N and D, the runs, and the efficient frontier."""
    axes = figure.subplots()
    points = fit.points + fit.table.of("holdout")
    n, d, loss = (column(points, name) for name in ("n", "d", "loss"))
    assert fit.law is not None
    n_axis = np.geomspace(n.min() / 1.5, n.max() * 1.5, 80)
    d_axis = np.geomspace(d.min() / 1.5, d.max() * 1.5, 80)
    places = (part.ravel() for part in np.meshgrid(n_axis, d_axis))
    grid = np.exp(log_loss(fit.law.values, *places)).reshape(80, 80)
    lines = axes.contour(n_axis, d_axis, grid, 12, cmap="viridis", zorder=1)
    axes.clabel(lines, fontsize=8, fmt="%.3g")
    dots = {"edgecolor": "k", "lw": 0.4, "s": 22, "zorder": 3}
    spots = axes.scatter(n, d, c=loss, cmap="viridis", **dots)
    if best := _frontier(fit):
        line = [centre for centre, _ in best]
        axes.plot(*line, color="crimson", lw=1.6, label="frontier")
    axes.set_xlim(n_axis[[0, -1]])
    axes.set_ylim(d_axis[[0, -1]])
    axes.set_yscale("log")
    figure.colorbar(spots, label=f"{fit.table.metric} of runs")
    finish(axes, SIZE, TOKENS)


def residuals(figure: Any, fit: LawFit) -> None:
    """Plots residuals over compute, coloured by size: any trend is misfit."""
    axes = figure.subplots()
    held = fit.table.of("holdout")
    sizes = np.log10(column(fit.points + held, "n"))
    ends = {"vmin": sizes.min(), "vmax": sizes.max(), "cmap": "viridis"}
    for points, marker, label in (
        (fit.points, "o", "fitted"),
        (held, "D", "held out"),
    ):
        if points:
            percent = 100 * np.expm1(fit.residuals(points))
            shade = np.log10(column(points, "n"))
            style = {"marker": marker, "s": 24, "label": label, **ends}
            spots = axes.scatter(column(points, "c"), percent, c=shade, **style)
    for group in groups(fit.points):
        middle = 100 * np.expm1(np.median(fit.residuals(group)))
        c = mean_flops(group)
        axes.plot([c / 1.15, c * 1.15], [middle, middle], "k-", lw=2)
    axes.axhline(0, color="0.5", lw=0.8)
    axes.set_xscale("log")
    sparse_ticks(axes.xaxis)
    axes.set_xlabel(FLOPS)
    axes.set_ylabel("measured over predicted, less 1 (%)")
    axes.plot([], [], "k-", lw=2, label="median of a budget")
    axes.legend(fontsize=8, frameon=False)
    axes.grid(alpha=0.25)
    figure.colorbar(spots, label="log10 of parameters N")


def pairs(figure: Any, fit: LawFit) -> None:
    """Plots each two of the parameters, draw by draw, and the fit itself."""
    assert fit.law is not None
    figure.set_size_inches(7.6, 7.4)
    figure.set_layout_engine("none")  # it takes a second for this many
    room = {"left": 0.1, "right": 0.98, "bottom": 0.07, "top": 0.99}
    grid = figure.add_gridspec(5, 5, wspace=0.15, hspace=0.15, **room)
    draws, values = fit.law.draws[:SHOWN].copy(), fit.law.values.copy()
    names = list(NAMES)
    for k in (1, 2):  # A and B run over decades
        draws[:, k] = np.log10(np.maximum(draws[:, k], 1e-300))
        values[k] = np.log10(values[k])
        names[k] = f"log10 {names[k]}"
    # Ranges, more than 0 where draws without noise are all equal.
    wide = np.maximum(np.ptp(draws, 0), np.maximum(1e-6 * abs(values), 1e-9))
    for row in range(5):
        for place in range(row + 1):
            axes = figure.add_subplot(grid[row, place])
            x, y = draws[:, place], draws[:, row]
            if place == row:
                ends = (values[row] - wide[row], values[row] + wide[row])
                axes.hist(y, 48, range=ends, color="tab:blue", alpha=0.6)
                axes.axvline(values[row], color="crimson", lw=1)
                axes.set_yticks([])
            else:
                axes.plot(x, y, ".", ms=2, alpha=0.5)
                axes.plot(values[place], values[row], "+", color="crimson")
                axes.tick_params(labelleft=place == 0)
                axes.locator_params(nbins=4, axis="y")
            margin = wide[place] / 20
            axes.set_xlim(x.min() - margin, x.max() + margin)
            axes.tick_params(labelsize=7, labelbottom=row == 4)
            axes.locator_params(nbins=3, axis="x")
            if place == 0 and row:
                axes.set_ylabel(names[row])
            if row == 4:
                axes.set_xlabel(names[place])


def rates(figure: Any, found: list[Rate], metric: str) -> None:
    """Plots loss over learning rate by size, series in panels of their own."""
    series = by_series(found)
    sizes = sorted({rate.n for rate in found})
    if len(series) > 1:
        figure.set_size_inches(4.6 * len(series), 4.4)
    panels = figure.subplots(1, len(series), sharey=True, squeeze=False)[0]
    losses = np.concatenate([rate.loss for rate in found])
    # A rate that is far too high must not flatten the others' curves.
    low = losses.min()
    high = min(losses.max(), low + 2 * (np.median(losses) - low))
    margin = 0.05 * (high - low) or low / 20
    panels[0].set_ylim(low - margin, high + margin)
    for axes, (name, own) in zip(panels, series.items(), strict=True):
        for rate in own:
            shade = colour(sizes.index(rate.n), len(sizes))
            label = f"N = {rate.n:.3g}, best {rate.best:.2g}"
            style = {"color": shade, "ms": 4, "lw": 1, "label": label}
            axes.plot(rate.rates, rate.loss, "o-", **style)
            axes.axvline(rate.best, color=shade, lw=0.8, ls="--")
        if len(series) > 1:
            axes.set_title(f"{name}: best rates x {drift(own):.2g} apart")
        finish(axes, "learning rate", metric if axes is panels[0] else "")


def metrics(figure: Any, ranks: list[MetricRank], metric: str) -> None:
    """Plots other metrics of the runs over their loss, coloured by compute."""
    shown = ranks[:METRICS]
    rows = (len(shown) + 1) // 2
    figure.set_size_inches(7.2, 3.2 * rows + 0.8)
    panels = np.ravel(figure.subplots(rows, min(len(shown), 2)))
    shades = np.log10(np.concatenate([rank.flops for rank in shown]))
    ends = {"vmin": shades.min(), "vmax": shades.max()}
    for axes, rank in zip(panels, shown, strict=False):
        shade = np.log10(rank.flops)
        spots = axes.scatter(rank.loss, rank.values, c=shade, **ends)
        axes.set_xlabel(metric)
        axes.set_ylabel(rank.name)
        equal = np.isnan(rank.spearman)
        title = "all equal" if equal else f"Spearman {rank.spearman:.2f}"
        axes.set_title(f"{title}, {len(rank.values)} runs", fontsize=9)
        axes.grid(alpha=0.25)
        axes.locator_params(axis="x", nbins=5)
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    figure.colorbar(spots, ax=list(panels), label="log10 of FLOPs")


def _compute(fit: LawFit) -> np.ndarray:
    """Budgets (60,) over the range of the runs and three times beyond."""
    c = column(fit.points + fit.table.of("holdout"), "c")
    return np.geomspace(c.min(), c.max() * 3, 60)


def _frontier(fit: LawFit) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Optimal N and D over `_compute`, see `uncertainty.frontier`."""
    if fit.law is None:
        return None
    return frontier(fit.law, fit.cost, _compute(fit))


def _vertices(axes: Any, fit: LawFit, name: str) -> None:
    """Marks an attribute of the optima of all isoFLOP curves."""
    assert fit.isoflop is not None
    pairs = [(curve.c, getattr(curve, name)) for curve in fit.isoflop.curves]
    axes.plot(*np.transpose(pairs), ms=9, label="vertices", **STAR)


def _power_band(axes: Any, law: PowerLaw, freedom: int, c: np.ndarray) -> None:
    draws = np.array([law.drawn(x) for x in c]).T
    name = f"isoFLOP, C^{law.exponent:.3f}"
    _band(axes, c, law(c), draws, freedom, name, "tab:orange")


def _band(
    axes: Any,
    c: np.ndarray,
    centre: np.ndarray,
    draws: np.ndarray,
    freedom: int,
    label: str,
    shade: str = "tab:blue",
) -> None:
    """Plots a line (k,) with its 95 % band, by logarithms of draws (b, k)."""
    with np.errstate(all="ignore"):
        ends = np.exp(interval(np.log(centre), np.log(draws), freedom))
    axes.fill_between(c, ends[0], ends[1], color=shade, alpha=0.2, lw=0)
    axes.plot(c, centre, color=shade, lw=1.4, label=label)
