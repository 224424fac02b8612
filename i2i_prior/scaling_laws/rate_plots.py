"""Loss over learning rate: a valley for each size, series side by side."""

from __future__ import annotations

from typing import Any

import numpy as np

from i2i_prior.scaling_laws.axes import colour_of, finish
from i2i_prior.scaling_laws.rates import Rate, by_series, drift


def learning_rates(figure: Any, fitted: Any) -> None:
    """Loss over learning rate for each size, the best rate marked; series
    side by side. Of what is fitted, `rates` and `table` are needed."""
    series = by_series(fitted.rates)
    sizes = sorted({rate.n for rate in fitted.rates})
    if len(series) > 1:
        figure.set_size_inches(4.6 * len(series), 4.4)
    all_axes = figure.subplots(1, len(series), sharey=True, squeeze=False)[0]
    low = min(rate.loss.min() for rate in fitted.rates)
    high = max(rate.loss.max() for rate in fitted.rates)
    # A rate that is far too high must not flatten the valleys.
    high = min(high, low + 2 * (np.median(_losses(fitted.rates)) - low))
    margin = 0.05 * (high - low) or low / 20
    all_axes[0].set_ylim(low - margin, high + margin)
    for axes, (name, found) in zip(all_axes, series.items(), strict=True):
        for rate in found:
            colour = colour_of(sizes.index(rate.n), len(sizes))
            label = f"N = {rate.n:.3g}, best {rate.best:.2g}"
            axes.plot(
                *(rate.rates, rate.loss, "o-"),
                **{"color": colour, "ms": 4, "lw": 1, "label": label},
            )
            axes.axvline(rate.best, color=colour, lw=0.8, ls="--")
        if len(series) > 1:
            axes.set_title(f"{name}: best rates x {drift(found):.2g} apart")
        first = axes is all_axes[0]
        label = fitted.table.metric if first else ""
        finish(axes, "learning rate", label, "log")


def _losses(found: list[Rate]) -> np.ndarray:
    return np.concatenate([rate.loss for rate in found])
