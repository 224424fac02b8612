"""Rank correlation of other metrics of the runs with the loss.

A law is fitted to one metric; Spearman's rank correlation measures whether
FID and others order the runs as the loss does.
"""

from dataclasses import dataclass

import numpy as np

from i2i_prior.scaling_laws.points import Table, column

LEAST = 4  # runs with a metric
PREFIX = "eval/"


@dataclass(frozen=True)
class MetricRank:
    """Rank correlation of a metric over the runs that have it."""

    name: str  # in result.json
    loss: np.ndarray  # (k,) of the runs, as are values and flops
    values: np.ndarray
    flops: np.ndarray
    spearman: float  # rank correlation with the loss, NaN where all are equal
    p_value: float  # of it, under independence


def all_metrics(table: Table) -> list[MetricRank]:
    """Ranks by every metric of `PREFIX` that `LEAST` runs or more have."""
    measured = {name: own.metrics for name, own in table.sources.items()}
    names = {
        name
        for metrics in measured.values()
        for name in metrics
        if name.startswith(PREFIX) and not name.endswith("_standard_error")
    }
    found = []
    for name in sorted(names - {table.metric}):
        having = [
            p
            for p in table.of("fit") + table.of("holdout")
            if name in measured.get(p.id, {})
        ]
        if len(having) < LEAST:
            continue
        values = np.array([measured[p.id][name] for p in having])
        loss = column(having, "loss")
        rank, p_value = float("nan"), float("nan")
        if np.ptp(values) > 0 and np.ptp(loss) > 0:
            from scipy import stats

            rank, p_value = map(float, stats.spearmanr(loss, values))
        found.append(
            MetricRank(name, loss, values, column(having, "c"), rank, p_value)
        )
    return found
