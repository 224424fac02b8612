"""Other metrics of the same runs beside the loss: do they rank them alike?

A law is fitted to one metric; Spearman's rank correlation tells whether FID
and its like would order the runs as the loss does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from i2i_prior.scaling_laws.points import Table, column

LEAST = 4  # runs with a metric
PREFIX = "eval/"


@dataclass(frozen=True)
class Second:
    """A metric over the runs that have it.

    Attributes:
      name: as result.json has it.
      loss, values: (k,) of the runs.
      flops: (k,) of them.
      spearman: rank correlation with the loss, NaN where all are alike.
      p_value: of it, were there no order at all.
    """

    name: str
    loss: np.ndarray
    values: np.ndarray
    flops: np.ndarray
    spearman: float
    p_value: float


def beside(table: Table) -> list[Second]:
    """Every metric of `PREFIX` that `LEAST` runs or more have."""
    names = sorted(
        {
            name
            for source in table.sources.values()
            for name in source.metrics
            if name.startswith(PREFIX)
            and not name.endswith("_standard_error")
            and name != table.metric
        }
    )
    found = []
    for name in names:
        having = [
            p
            for p in table.of("fit") + table.of("holdout")
            if p.id in table.sources and name in table.sources[p.id].metrics
        ]
        if len(having) < LEAST:
            continue
        values = np.array([table.sources[p.id].metrics[name] for p in having])
        loss = column(having, "loss")
        rank, chance = float("nan"), float("nan")
        from scipy import stats

        if np.ptp(values) > 0 and np.ptp(loss) > 0:
            rank, chance = map(float, stats.spearmanr(loss, values))
        found.append(
            Second(name, loss, values, column(having, "c"), rank, chance)
        )
    return found
