"""Fitted laws as plain values: laws.json, draws.npz, and the laws in them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.checkpoint.run_dir import read_json, write_json
from i2i_prior.errors import UserError
from i2i_prior.io.disk import write_errors
from i2i_prior.io.files import atomic_path, nan_to_null
from i2i_prior.scaling_laws.bootstrap import interval
from i2i_prior.scaling_laws.fitting import LawFit
from i2i_prior.scaling_laws.parametric import NAMES
from i2i_prior.scaling_laws.power_laws import OffsetLaw, PowerLaw
from i2i_prior.scaling_laws.rates import Rate, RateLaw, by_series, drift
from i2i_prior.scaling_laws.recipe import Size, sizes_of
from i2i_prior.scaling_laws.uncertainty import Cost, ParametricLaw

OPTIMA = ("n_opt", "d_opt", "loss")


@dataclass(frozen=True)
class Laws:
    """Fitted laws, as they are saved, printed, reported and predicted from.

    Attributes:
      values: of laws.json, null for a part with too few runs. parametric: E,
        A, B, alpha, beta, interval_95 {name: [low, high]}, ...; isoflop:
        n_opt, d_opt, loss, each {coefficient, exponent, interval_95},
        loss_with_offset, akima_n_opt, curves, ...
      draws: of draws.npz: refits (b, k) of the intervals, by law.
      parametric: the parametric law, None for too few runs.
      cost: FLOPs over sizes and tokens.
      optima: power laws "n_opt", "d_opt" and "loss" over FLOPs; {} for too
        few budgets.
      freedom: degrees of freedom of the draws of `optima`.
      offset: law of the loss with an offset.
      rate: best learning rate over sizes.
      largest: FLOPs of the largest run that was fitted.
      sizes: configs that were run.
      widening: factors of the intervals of the isoFLOP losses.
    """

    values: dict[str, Any]
    draws: dict[str, np.ndarray]
    parametric: ParametricLaw | None
    cost: Cost
    optima: dict[str, PowerLaw]
    freedom: int
    offset: OffsetLaw | None
    rate: RateLaw | None
    largest: float
    sizes: list[Size]
    widening: dict[str, float]

    @classmethod
    def of(cls, fit: LawFit) -> Laws:
        """The laws of a fit."""
        draws = {} if fit.law is None else {"parametric": fit.law.draws}
        if fit.isoflop is not None:
            draws |= {k: getattr(fit.isoflop, k).draws for k in OPTIMA}
            if fit.isoflop.offset is not None:
                draws["offset"] = fit.isoflop.offset.draws
        return cls.parse(_values(fit), draws)

    @classmethod
    def parse(
        cls, values: dict[str, Any], draws: dict[str, np.ndarray]
    ) -> Laws:
        """The laws in the contents of laws.json and draws.npz."""
        law = offset = rate = None
        optima, freedom, widening = {}, 0, {}
        if fit := values["parametric"]:
            calibration = fit["calibration"] or {"inflation": 1.0}
            law = ParametricLaw(
                values=np.array([fit[name] for name in NAMES]),
                draws=draws["parametric"],
                freedom=fit["freedom"],
                noise=fit["noise"],
                inflation=calibration["inflation"],
            )
        if fit := values["isoflop"]:
            freedom, widening = fit["freedom"], fit["loss_widening"]
            optima = {
                k: PowerLaw(fit[k]["coefficient"], fit[k]["exponent"], draws[k])
                for k in OPTIMA
            }
            if form := fit["loss_with_offset"]:
                offset = OffsetLaw(
                    *(form["offset"], form["coefficient"], -form["exponent"]),
                    draws["offset"],
                )
        fit = values["learning_rate"]
        if fit and fit["coefficient"] is not None:
            none = np.zeros(0)
            sizes = [
                Rate(size["params"], none, none, size["best"], False)
                for size in fit["sizes"]
            ]
            rate = RateLaw(
                sizes, fit["coefficient"], fit["exponent"], fit["spread"]
            )
        return cls(
            values=values,
            draws=draws,
            parametric=law,
            cost=Cost(**values["cost"]),
            optima=optima,
            freedom=freedom,
            offset=offset,
            rate=rate,
            largest=values["data"]["largest_flops"],
            sizes=[Size(**size) for size in values["sizes"]],
            widening=widening,
        )

    @classmethod
    def load(cls, folder: Path) -> Laws:
        """Reads what `save` wrote.

        Raises:
          UserError: for a folder without laws.
        """
        file = folder / "laws.json"
        if not file.exists():
            raise UserError(
                f"{folder} has no laws.json; fit first: i2i-prior fit --runs "
                f"SWEEP --out {folder}"
            )
        values = read_json(file)
        try:
            with np.load(folder / "draws.npz") as arrays:
                return cls.parse(values, dict(arrays))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{folder} holds no laws of this version ({error}); fit again"
            ) from error

    def save(self, folder: Path) -> None:
        """Writes draws.npz, then laws.json.

        Raises:
          UserError: where they cannot be written.
        """
        file = folder / "draws.npz"
        with write_errors(file, "free space or choose another --out"):
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(file) as path, path.open("wb") as stream:
                np.savez_compressed(stream, **self.draws)  # type: ignore[arg-type]
        write_json(folder / "laws.json", nan_to_null(self.values))


def _values(fit: LawFit) -> dict[str, Any]:
    """Contents of laws.json."""
    table = fit.table
    return {
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
    laws = {name: getattr(optima, name) for name in OPTIMA}
    found: dict[str, Any] = {
        name: {
            "coefficient": law.coefficient,
            "exponent": law.exponent,
            "interval_95": law.intervals(optima.freedom),
        }
        for name, law in (laws | {"akima_n_opt": optima.akima}).items()
    }
    offset = optima.offset
    return found | {
        "loss_with_offset": offset
        and {
            "offset": offset.offset,
            "coefficient": offset.coefficient,
            "exponent": -offset.exponent,
            "interval_95": offset.intervals(optima.freedom),
        },
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
