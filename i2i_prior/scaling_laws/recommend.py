"""What to train with a budget: size, tokens, loss and learning rate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from i2i_prior.aot.machine import Machine
from i2i_prior.scaling_laws.bootstrap import interval
from i2i_prior.scaling_laws.isoflop import PowerLaw
from i2i_prior.scaling_laws.offset import OffsetLaw
from i2i_prior.scaling_laws.rates import RateLaw
from i2i_prior.scaling_laws.recipe import Size, recipe
from i2i_prior.scaling_laws.uncertainty import Cost, Law, optimum, predicted


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
      sizes: configs that were run.
      widening: of the intervals of the isoFLOP losses.
    """

    law: Law | None
    cost: Cost
    optima: dict[str, PowerLaw] | None
    freedom: int
    offset: OffsetLaw | None
    rate: RateLaw | None
    largest: float
    sizes: list[Size] = field(default_factory=list)
    widening: dict[str, float] = field(default_factory=dict)


def recommend(
    laws: Laws, c: float, seed: int = 0, machine: Machine | None = None
) -> dict[str, Any]:
    """Predictions for c FLOPs, each {"value", "interval_95"}.

    Returns:
      flops, extrapolation (c over the largest run's), and for "parametric"
      and "isoflop", where fitted: params, tokens, tokens_per_param, loss. The
      former's loss has run_interval_95, where a run should fall; the latter
      has loss_with_offset.
      learning_rate, where rates were tuned. recipe: what to start, by the
      parametric law where there is one, see `recipe`.
    """
    found: dict[str, Any] = {
        "flops": c,
        "extrapolation": c / laws.largest,
    }
    best = None
    if laws.optima:
        found["isoflop"] = _by_optima(laws, laws.optima, c)
        best = found["isoflop"]
    if laws.law is not None:
        by_law = _by_law(laws.law, laws.cost, c, seed)
        if by_law:
            found["parametric"] = by_law
            best = by_law
    if best is not None:
        size, tokens = (best[name]["value"] for name in ("params", "tokens"))
        if laws.rate is not None:
            found["learning_rate"] = _rate(laws.rate, size)
        found["recipe"] = recipe(laws.sizes, c, size, tokens, machine)
    return found


def _by_law(law: Law, cost: Cost, c: float, seed: int) -> dict[str, Any]:
    n, d = optimum(law.values, cost, c)
    if not (0 < n < np.inf and 0 < d < np.inf):
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

    def told(value: Any, draws: np.ndarray, law: str = "") -> dict[str, Any]:
        wide = laws.widening.get(law, 1.0)
        return _told(float(value), draws, laws.freedom, wide)

    found = {
        "params": told(n(c), n.drawn(c)),
        "tokens": told(d(c), d.drawn(c)),
        "tokens_per_param": told(d(c) / n(c), d.drawn(c) / n.drawn(c)),
        "loss": told(loss(c), loss.drawn(c), "isoflop"),
    }
    if laws.offset is not None:
        found["loss_with_offset"] = told(
            laws.offset(c), laws.offset.drawn(c), "isoflop, offset"
        )
    return found


def _told(
    value: float, draws: np.ndarray, freedom: int, wide: float = 1.0
) -> dict[str, Any]:
    """A positive value, its interval by logarithms, `wide` times as wide."""
    with np.errstate(all="ignore"):
        logs = np.log(draws)
        ends = interval(np.log(value), logs, freedom) - np.log(value)
        ends = value * np.exp(wide * ends)
    return {"value": value, "interval_95": [float(end) for end in ends]}


def _rate(law: RateLaw, size: float) -> dict[str, Any]:
    """The learning rate of a size; an interval from three sizes on."""
    found: dict[str, Any] = {"value": law(size), "interval_95": None}
    if law.spread is not None:
        from scipy import special

        x = np.log([rate.n for rate in law.sizes])
        gap = np.log(size) - x.mean()
        room = 1 + 1 / len(x) + gap**2 / ((x - x.mean()) ** 2).sum()
        wide = special.stdtrit(len(x) - 2, 0.975) * law.spread * np.sqrt(room)
        ends = law(size) * np.exp(np.array([-wide, wide]))
        found["interval_95"] = [float(end) for end in ends]
    return found
