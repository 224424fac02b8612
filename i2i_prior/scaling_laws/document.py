"""laws.json: what was fitted, as plain values for scripts."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from i2i_prior.scaling_laws import rates, recipe
from i2i_prior.scaling_laws.bootstrap import interval
from i2i_prior.scaling_laws.fitting import Fitted
from i2i_prior.scaling_laws.isoflop import PowerLaw
from i2i_prior.scaling_laws.parametric import NAMES
from i2i_prior.scaling_laws.points import column
from i2i_prior.scaling_laws.uncertainty import intervals

OPTIMA = ("n_opt", "d_opt", "loss")


def document(fitted: Fitted) -> dict[str, Any]:
    """All of a fit as plain values; null where there is too little for it.

    parametric: E, A, B, alpha, beta, interval_95 {name: [low, high]}, ...
    isoflop: n_opt, d_opt, loss, each {coefficient, exponent, interval_95
    {name: [low, high]}}; loss_with_offset; akima; curves; ...
    """
    table = fitted.table
    return {
        "metric": table.metric,
        "data": {
            "runs": len(fitted.points),
            "held_out": len(table.of("holdout")),
            "tune": len(table.of("tune")),
            "excluded": [list(pair) for pair in table.excluded],
            "notes": table.notes,
            "largest_flops": float(column(fitted.points, "c").max()),
        },
        "cost": dataclasses.asdict(fitted.cost),
        "parametric": _parametric(fitted),
        "isoflop": _isoflop(fitted),
        "envelope": _envelope(fitted),
        "held_out": {
            "which": fitted.why_held,
            "calibration": _plain(fitted.held_calibration),
            "predictions": [
                dataclasses.asdict(row)
                | {"error": row.error, "inside": row.inside}
                for row in fitted.held
            ],
        },
        "learning_rate": rates.plain(fitted.rates, fitted.rate_law),
        "neighbours": [
            dataclasses.asdict(pair)
            | {"ratio": pair.ratio, "resolved": pair.resolved}
            for pair in fitted.pairs
        ],
        "other_metrics": [
            {
                "metric": other.name,
                "runs": len(other.values),
                "spearman": other.spearman,
                "p_value": other.p_value,
            }
            for other in fitted.others
        ],
        "sizes": recipe.plain(recipe.sizes_of(table)),
    }


def _parametric(fitted: Fitted) -> dict[str, Any] | None:
    law, fit = fitted.law, fitted.huber
    if law is None or fit is None:
        return None

    def named(values: np.ndarray | None) -> dict[str, float]:
        return dict(zip(NAMES, map(float, values), strict=True))  # type: ignore[arg-type]

    # With C = kappa N^eta D, N* goes as C to the beta / (alpha + eta beta).
    centre, drawn = (
        beta / (alpha + fitted.cost.eta * beta)
        for alpha, beta in (law.values[3:], law.draws[:, 3:].T)
    )
    return {
        **named(law.values),
        "interval_95": intervals(law),
        "n_opt_exponent": float(centre),
        "n_opt_exponent_interval_95": _floats(
            interval(centre, drawn, law.freedom)
        ),
        "objective": fit.objective,
        "starts": fit.starts,
        "starts_agreeing": fit.agreeing,
        "gradient": fit.gradient,
        "noise": law.noise,
        "freedom": law.freedom,
        "draws": len(law.draws),
        "calibration": _plain(fitted.calibration),
        "least_absolute": named(fitted.lad),
        "least_squares": named(fitted.squares),
    }


def _isoflop(fitted: Fitted) -> dict[str, Any] | None:
    optima = fitted.isoflop
    if optima is None:
        return None
    laws = {name: getattr(optima, name) for name in OPTIMA}
    laws["akima_n_opt"] = optima.akima
    found: dict[str, Any] = {
        name: _power_law(law, optima.freedom) for name, law in laws.items()
    }
    found["loss_with_offset"] = None
    if fitted.offset is not None:
        law = fitted.offset
        ends = interval(
            np.array([law.offset, law.exponent]),
            law.draws[:, [0, 2]],
            optima.freedom,
        )
        found["loss_with_offset"] = {
            "offset": law.offset,
            "coefficient": law.coefficient,
            "exponent": -law.exponent,
            "interval_95": {
                "offset": _floats(np.maximum(ends[:, 0], 0.0)),
                "exponent": _floats(-ends[::-1, 1]),
            },
        }
    found["loss_widening"] = fitted.widening
    found["freedom"], found["noise"] = optima.freedom, optima.noise
    found["curves"] = [
        {
            "flops": curve.c,
            "runs": len(curve.n),
            "n_opt": curve.n_opt,
            "d_opt": curve.d_opt,
            "loss": curve.loss_opt,
            "akima_n_opt": curve.akima,
            "edge": curve.edge,
        }
        for curve in optima.curves
    ]
    found["dropped"] = [list(pair) for pair in optima.dropped]
    return found


def _power_law(law: PowerLaw, freedom: int) -> dict[str, Any]:
    estimate = np.array([math.log(law.coefficient), law.exponent])
    ends = interval(estimate, law.draws, freedom)
    return {
        "coefficient": law.coefficient,
        "exponent": law.exponent,
        "interval_95": {
            "coefficient": _floats(np.exp(np.clip(ends[:, 0], -700, 700))),
            "exponent": _floats(ends[:, 1]),
        },
    }


def _envelope(fitted: Fitted) -> dict[str, Any] | None:
    lowest = fitted.envelope
    if lowest is None:
        return None
    return {
        "coefficient": lowest.coefficient,
        "exponent": lowest.exponent,
        "interval_95": {"exponent": _floats(lowest.interval)},
        "size_exponent": lowest.size_exponent,
        "of": "training curves" if lowest.of_curves else "ends of runs",
    }


def _floats(values: np.ndarray) -> list[float]:
    return [float(value) for value in values]


def _plain(value: Any) -> dict[str, Any] | None:
    return None if value is None else dataclasses.asdict(value)
