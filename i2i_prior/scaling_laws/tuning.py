"""A sweep of learning rates alone: best rates, and whether they drift."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i2i_prior.checkpoint.run_dir import write_json
from i2i_prior.errors import UserError
from i2i_prior.scaling_laws import rates
from i2i_prior.scaling_laws.points import Table
from i2i_prior.scaling_laws.rates import Rate


@dataclass(frozen=True)
class Tuned:
    """What is known of learning rates: the runs, and each size's best."""

    table: Table
    rates: list[Rate]


def write(out: Path, table: Table) -> str:
    """Writes OUT/laws.json, whose laws are null, and plots/rates.png.

    Returns:
      what came out, a line a series.

    Raises:
      UserError: where no size has three learning rates.
    """
    from i2i_prior.scaling_laws.plots import saved
    from i2i_prior.scaling_laws.rate_plots import learning_rates

    found, law = rates.fit(table.of("tune"))
    if not found:
        raise UserError(
            "all runs are of role tune, and no size has three learning rates; "
            "add runs, or wait for those that still train"
        )
    values: dict[str, Any] = {
        "metric": table.metric,
        "data": {
            "runs": 0,
            "tune": len(table.points),
            "excluded": [list(pair) for pair in table.excluded],
        },
        "parametric": None,
        "isoflop": None,
        "learning_rate": rates.plain(found, law),
    }
    picture = saved(
        out / "plots" / "rates.png", Tuned(table, found), learning_rates
    )
    write_json(out / "laws.json", values)
    lines = [_told(*pair) for pair in rates.by_series(found).items()]
    return "\n".join([*lines, str(picture)])


def _told(series: str, found: list[Rate]) -> str:
    best = ", ".join(
        f"{rate.best:.2g} at N = {rate.n:.3g}"
        + " (the last one tried)" * rate.edge
        for rate in found
    )
    name = f"{series}: " if series else ""
    return (
        f"{name}best learning rates {best}; a factor of "
        f"{rates.drift(found):.2g} apart"
    )
