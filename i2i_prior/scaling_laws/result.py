"""Contents of laws.json and draws.npz."""

import dataclasses
from typing import Any

from i2i_prior.scaling_laws.bootstrap import interval
from i2i_prior.scaling_laws.fitting import LawFit
from i2i_prior.scaling_laws.laws import OPTIMA, Laws
from i2i_prior.scaling_laws.parametric import NAMES
from i2i_prior.scaling_laws.power_laws import OffsetLaw, PowerLaw
from i2i_prior.scaling_laws.rates import Rate, RateLaw, by_series, drift
from i2i_prior.scaling_laws.recommend import sizes_of


def laws_of(fit: LawFit) -> Laws:
    """The laws of a fit."""
    draws = {} if fit.law is None else {"parametric": fit.law.draws}
    if fit.isoflop is not None:
        draws |= {k: getattr(fit.isoflop, k).draws for k in OPTIMA}
        if fit.isoflop.offset is not None:
            draws["offset"] = fit.isoflop.offset.draws
    table = fit.table
    values = {
        "metric": table.metric,
        "data": {
            "runs": len(fit.points),
            "held_out": len(table.of("holdout")),
            "tune": len(table.of("tune")),
            "excluded": [list(pair) for pair in table.excluded],
            "notes": table.notes,
            "largest_flops": fit.largest,
        },
        "cost": dataclasses.asdict(fit.cost),
        "parametric": _parametric(fit),
        "isoflop": _isoflop(fit),
        "envelope": _envelope(fit),
        "held_out": {
            "which": fit.why_held,
            "calibration": _asdict(fit.held_calibration),
            "predictions": [
                _asdict(row, "error", "inside") for row in fit.held
            ],
        },
        "learning_rate": rates_values(fit.rates, fit.rate_law),
        "neighbours": [_asdict(p, "ratio", "resolved") for p in fit.pairs],
        "other_metrics": [
            {
                "metric": metric.name,
                "runs": len(metric.values),
                "spearman": metric.spearman,
                "p_value": metric.p_value,
            }
            for metric in fit.metrics
        ],
        "sizes": [_asdict(size) for size in sizes_of(table)],
    }
    return Laws(values, draws)


def _asdict(value: Any, *properties: str) -> Any:
    """Fields of a dataclass, and some of its properties; None for None."""
    if value is None:
        return None
    more = {name: getattr(value, name) for name in properties}
    return dataclasses.asdict(value) | more


def _parametric(fit: LawFit) -> dict[str, Any] | None:
    law, huber = fit.law, fit.huber
    if law is None or huber is None:
        return None

    def named(values: Any) -> dict[str, float]:
        return dict(zip(NAMES, map(float, values), strict=True))

    # With C = kappa N^eta D, N* goes as C to the beta / (alpha + eta beta).
    centre, drawn = (
        beta / (alpha + fit.cost.eta * beta)
        for alpha, beta in (law.values[3:], law.draws[:, 3:].T)
    )
    return {
        **named(law.values),
        "interval_95": law.intervals(),
        "n_opt_exponent": float(centre),
        "n_opt_exponent_interval_95": interval(
            centre, drawn, law.freedom
        ).tolist(),
        "objective": huber.objective,
        "starts": huber.starts,
        "starts_agreeing": huber.agreeing,
        "gradient": huber.gradient,
        "noise": law.noise,
        "freedom": law.freedom,
        "draws": len(law.draws),
        "calibration": _asdict(fit.calibration),
        "least_absolute": named(fit.lad),
        "least_squares": named(fit.squares),
    }


def _isoflop(fit: LawFit) -> dict[str, Any] | None:
    optima = fit.isoflop
    if optima is None:
        return None

    def form(law: PowerLaw | OffsetLaw, exponent: float) -> dict[str, Any]:
        return {
            "coefficient": law.coefficient,
            "exponent": exponent,
            "interval_95": law.intervals(optima.freedom),
        }

    laws = {name: getattr(optima, name) for name in OPTIMA}
    laws["akima_n_opt"] = optima.akima
    floor = optima.offset
    return {name: form(law, law.exponent) for name, law in laws.items()} | {
        "loss_with_offset": floor
        and {"offset": floor.offset, **form(floor, -floor.exponent)},
        "loss_widening": fit.widening,
        "freedom": optima.freedom,
        "noise": optima.noise,
        "curves": [
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
        ],
        "dropped": [list(pair) for pair in optima.dropped],
    }


def _envelope(fit: LawFit) -> dict[str, Any] | None:
    lowest = fit.envelope
    if lowest is None:
        return None
    return {
        "coefficient": lowest.coefficient,
        "exponent": lowest.exponent,
        "interval_95": {"exponent": lowest.interval.tolist()},
        "size_exponent": lowest.size_exponent,
        "of": "training curves" if lowest.of_curves else "ends of runs",
    }


def rates_values(rates: list[Rate], law: RateLaw | None) -> Any:
    """Best learning rates as laws.json has them; None for none."""
    return (rates or None) and {
        "coefficient": law and law.coefficient,
        "exponent": law and law.exponent,
        "spread": law and law.spread,
        "sizes": [
            {
                "params": rate.n,
                "best": rate.best,
                "edge": rate.edge,
                "series": rate.series,
            }
            for rate in rates
        ],
        "drift": {name: drift(some) for name, some in by_series(rates).items()},
    }
