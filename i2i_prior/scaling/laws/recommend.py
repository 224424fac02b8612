"""What to train with a budget: size, tokens, loss and learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from i2i_prior.scaling.laws.bootstrap import interval
from i2i_prior.scaling.laws.isoflop import PowerLaw
from i2i_prior.scaling.laws.offset import OffsetLaw
from i2i_prior.scaling.laws.rates import RateLaw
from i2i_prior.scaling.laws.uncertainty import Cost, Law, optimum, predicted


@dataclass(frozen=True)
class Laws:
    """What a prediction takes; None where it was not fitted.

    Attributes:
      law, cost: the parametric law, and FLOPs of sizes and tokens.
      optima: power laws "n_opt", "d_opt" and "loss" over FLOPs.
      freedom: degrees of freedom behind the draws of `optima`.
      offset: the loss over FLOPs with an offset.
      rate: best learning rate over sizes.
      largest: FLOPs of the largest run that was fitted.
    """

    law: Law | None
    cost: Cost
    optima: dict[str, PowerLaw] | None
    freedom: int
    offset: OffsetLaw | None
    rate: RateLaw | None
    largest: float


def recommend(laws: Laws, c: float, seed: int = 0) -> dict[str, Any]:
    """Predictions for c FLOPs, each {"value", "interval_95"}.

    Returns:
      flops, extrapolation (c over the largest run's), and for "parametric"
      and "isoflop", where fitted: params, tokens, tokens_per_param, loss. The
      former's loss has run_interval_95, where a run should fall; the latter
      has loss_with_offset.
      learning_rate, where rates were tuned.
    """
    found: dict[str, Any] = {
        "flops": c,
        "extrapolation": c / laws.largest,
    }
    size = None
    if laws.optima:
        found["isoflop"] = _by_optima(laws, laws.optima, c)
        size = found["isoflop"]["params"]["value"]
    if laws.law is not None:
        by_law = _by_law(laws.law, laws.cost, c, seed)
        if by_law:
            found["parametric"] = by_law
            size = by_law["params"]["value"]
    if laws.rate is not None and size is not None:
        found["learning_rate"] = _rate(laws.rate, size)
    return found


def _by_law(law: Law, cost: Cost, c: float, seed: int) -> dict[str, Any]:
    n, d = optimum(law.values, cost, c)
    if not np.isfinite(n):
        return {}
    many_n, many_d = optimum(law.draws, cost, c)

    def told(value: Any, draws: np.ndarray) -> dict[str, Any]:
        return _told(float(value), draws, law.freedom)

    loss, mean, run = predicted(law, np.array([n]), np.array([d]), seed)
    return {
        "params": told(n, many_n),
        "tokens": told(d, many_d),
        "tokens_per_param": told(d / n, many_d / many_n),
        "loss": {
            "value": float(loss[0]),
            "interval_95": [float(end) for end in mean[:, 0]],
            "run_interval_95": [float(end) for end in run[:, 0]],
        },
    }


def _by_optima(
    laws: Laws, optima: dict[str, PowerLaw], c: float
) -> dict[str, Any]:
    n, d, loss = (optima[name] for name in ("n_opt", "d_opt", "loss"))

    def told(value: Any, draws: np.ndarray) -> dict[str, Any]:
        return _told(float(value), draws, laws.freedom)

    found = {
        "params": told(n(c), n.drawn(c)),
        "tokens": told(d(c), d.drawn(c)),
        "tokens_per_param": told(d(c) / n(c), d.drawn(c) / n.drawn(c)),
        "loss": told(loss(c), loss.drawn(c)),
    }
    if laws.offset is not None:
        found["loss_with_offset"] = told(laws.offset(c), laws.offset.drawn(c))
    return found


def _told(value: float, draws: np.ndarray, freedom: int) -> dict[str, Any]:
    """A positive value, its interval by logarithms."""
    with np.errstate(all="ignore"):
        logs = np.log(draws)
    ends = np.exp(interval(np.log(value), logs, freedom))
    return {"value": value, "interval_95": [float(end) for end in ends]}


def _rate(law: RateLaw, size: float) -> dict[str, Any]:
    """The learning rate of a size; an interval from three sizes on."""
    found: dict[str, Any] = {"value": law(size), "interval_95": None}
    if law.spread is not None:
        from scipy import stats

        x = np.log([rate.n for rate in law.sizes])
        gap = np.log(size) - x.mean()
        room = 1 + 1 / len(x) + gap**2 / ((x - x.mean()) ** 2).sum()
        wide = stats.t.ppf(0.975, len(x) - 2) * law.spread * np.sqrt(room)
        ends = law(size) * np.exp(np.array([-wide, wide]))
        found["interval_95"] = [float(end) for end in ends]
    return found
