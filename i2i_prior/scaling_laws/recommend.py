"""Recommendations for a budget: size, tokens, loss, rate, and a run."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from i2i_prior.aot.machine import Machine
from i2i_prior.scaling_laws.bootstrap import interval
from i2i_prior.scaling_laws.laws import Laws
from i2i_prior.scaling_laws.points import Table
from i2i_prior.scaling_laws.rates import RateLaw
from i2i_prior.scaling_laws.uncertainty import optimum, predict_loss


@dataclass(frozen=True)
class Size:
    """A config that was run."""

    id: str  # of its largest run
    params: float  # trained
    batch_size: float  # images a step
    tokens_per_example: float
    flops_per_step: float  # those that count
    overhead: float  # FLOPs of all networks over those that count
    overrides: dict[str, Any]  # config fields that make it, if known


def sizes_of(table: Table) -> list[Size]:
    """Sizes of run directories, ascending; [] for a CSV file."""
    found: dict[float, Size] = {}
    for point in sorted(table.points, key=lambda p: p.c):
        source = table.sources.get(point.id)
        if source is not None and source.step > 0 and source.examples > 0:
            found[point.n] = Size(
                id=point.id,
                params=point.n,
                batch_size=source.examples / source.step,
                tokens_per_example=point.d / source.examples,
                flops_per_step=point.c / source.step,
                overhead=source.overhead,
                overrides=source.overrides,
            )
    return [found[n] for n in sorted(found)]


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
    largest = laws.values["data"]["largest_flops"]
    found: dict[str, Any] = {"flops": c, "extrapolation": c / largest}
    best = {}
    if by_optima := _by_optima(laws, c):
        best = found["isoflop"] = by_optima
    if by_law := _by_law(laws, c, seed):
        best = found["parametric"] = by_law
    if best:
        size, tokens = (best[name]["value"] for name in ("params", "tokens"))
        if (rate := laws.rate) is not None:
            found["learning_rate"] = _rate(rate, size)
        sizes = [Size(**each) for each in laws.values["sizes"]]
        found["recipe"] = recipe(sizes, c, size, tokens, machine)
    return found


def recipe(
    sizes: list[Size],
    c: float,
    params: float,
    tokens: float,
    machine: Machine | None,
) -> dict[str, Any]:
    """The run to start for c FLOPs, recommended parameters and tokens.

    Returns:
      with sizes: steps (of the recommended tokens), batch_size, and nearest:
      {id, params, steps (that spend c on it), overrides}; with a machine:
      hours, chip_hours, machine, assumption.
    """
    found: dict[str, Any] = {}
    overhead = 1.0
    if sizes:
        near = min(sizes, key=lambda s: abs(math.log(s.params / params)))
        overhead = near.overhead
        a_step = near.batch_size * near.tokens_per_example
        found = {
            "steps": max(round(tokens / a_step), 1),
            "batch_size": round(near.batch_size),
            "nearest": {
                "id": near.id,
                "params": near.params,
                "steps": max(round(c / near.flops_per_step), 1),
                "overrides": near.overrides,
            },
        }
    if machine is not None:
        hours = machine.hours(c * overhead)
        found |= {
            "hours": hours,
            "chip_hours": hours * machine.chips,
            "machine": machine.name,
            "assumption": machine.assumption,
        }
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
    """Predictions of the isoFLOP laws; {} where there are none."""
    if not laws.optima:
        return {}
    (n, many_n), (d, many_d), (loss, losses) = (
        (law(c), law.drawn(c)) for law in laws.optima.values()
    )
    fit = laws.values["isoflop"]
    wide, freedom = fit["loss_widening"], fit["freedom"]
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

        x = np.log(law.sizes)
        gap = np.log(size) - x.mean()
        room = 1 + 1 / len(x) + gap**2 / ((x - x.mean()) ** 2).sum()
        wide = special.stdtrit(len(x) - 2, 0.975) * law.spread * np.sqrt(room)
        ends = law(size) * np.exp(np.array([-wide, wide]))
        found["interval_95"] = ends.tolist()
    return found
