"""Recommendations for a budget: size, tokens, loss and learning rate."""

from __future__ import annotations

from typing import Any

import numpy as np

from i2i_prior.aot.machine import Machine
from i2i_prior.scaling_laws.bootstrap import interval
from i2i_prior.scaling_laws.rates import RateLaw
from i2i_prior.scaling_laws.recipe import recipe
from i2i_prior.scaling_laws.result import Laws
from i2i_prior.scaling_laws.uncertainty import optimum, predict_loss


def recommend(
    laws: Laws, c: float, seed: int = 0, machine: Machine | None = None
) -> dict[str, Any]:
    """Predictions for c FLOPs, each {"value", "interval_95"}.

    Returns:
      flops, extrapolation (c over the largest run's), and for "parametric"
      and "isoflop", where fitted: params, tokens, tokens_per_param, loss. The
      former's loss has run_interval_95, the prediction interval of a run; the
      latter has loss_with_offset.
      learning_rate, where rates were tuned. recipe: the run to start, by the
      parametric law where there is one, see `recipe`.
    """
    found: dict[str, Any] = {"flops": c, "extrapolation": c / laws.largest}
    best = {}
    if laws.optima:
        best = found["isoflop"] = _by_optima(laws, c)
    if by_law := _by_law(laws, c, seed):
        best = found["parametric"] = by_law
    if best:
        size, tokens = (best[name]["value"] for name in ("params", "tokens"))
        if laws.rate is not None:
            found["learning_rate"] = _rate(laws.rate, size)
        found["recipe"] = recipe(laws.sizes, c, size, tokens, machine)
    return found


def _by_law(laws: Laws, c: float, seed: int) -> dict[str, Any]:
    """Predictions of the parametric law; {} where it has no optimum."""
    law = laws.parametric
    if law is None:
        return {}
    n, d = optimum(law.values, laws.cost, c)
    if not (0 < n < np.inf and 0 < d < np.inf):
        return {}
    many_n, many_d = optimum(law.draws, laws.cost, c)
    loss, mean, run = predict_loss(law, np.array([n]), np.array([d]), seed)
    return {
        "params": _entry(n, many_n, law.freedom),
        "tokens": _entry(d, many_d, law.freedom),
        "tokens_per_param": _entry(d / n, many_d / many_n, law.freedom),
        "loss": {
            "value": float(loss[0]),
            "interval_95": mean[:, 0].tolist(),
            "run_interval_95": run[:, 0].tolist(),
        },
    }


def _by_optima(laws: Laws, c: float) -> dict[str, Any]:
    """Predictions of the isoFLOP laws."""
    (n, many_n), (d, many_d), (loss, losses) = (
        (law(c), law.drawn(c)) for law in laws.optima.values()
    )
    wide, freedom = laws.widening, laws.freedom
    found = {
        "params": _entry(n, many_n, freedom),
        "tokens": _entry(d, many_d, freedom),
        "tokens_per_param": _entry(d / n, many_d / many_n, freedom),
        "loss": _entry(loss, losses, freedom, wide.get("isoflop", 1.0)),
    }
    if (law := laws.offset) is not None:
        ratio = wide.get("isoflop, offset", 1.0)
        found["loss_with_offset"] = _entry(law(c), law.drawn(c), freedom, ratio)
    return found


def _entry(
    value: Any, draws: np.ndarray, freedom: int, wide: float = 1.0
) -> dict[str, Any]:
    """A positive value and its interval by logarithms, `wide` times as wide."""
    value = float(value)
    with np.errstate(all="ignore"):
        ends = interval(np.log(value), np.log(draws), freedom) - np.log(value)
        ends = value * np.exp(wide * ends)
    return {"value": value, "interval_95": ends.tolist()}


def _rate(law: RateLaw, size: float) -> dict[str, Any]:
    """The learning rate of a size; with an interval from three sizes on."""
    found: dict[str, Any] = {"value": law(size), "interval_95": None}
    if law.spread is not None:
        from scipy import special

        x = np.log([rate.n for rate in law.sizes])
        gap = np.log(size) - x.mean()
        room = 1 + 1 / len(x) + gap**2 / ((x - x.mean()) ** 2).sum()
        wide = special.stdtrit(len(x) - 2, 0.975) * law.spread * np.sqrt(room)
        ends = law(size) * np.exp(np.array([-wide, wide]))
        found["interval_95"] = ends.tolist()
    return found
