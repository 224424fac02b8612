"""Steps, nearest config and hours of a recommended size and token count."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from i2i_prior.aot.machine import Machine
from i2i_prior.scaling_laws.points import Table


@dataclass(frozen=True)
class Size:
    """A config that was run.

    Attributes:
      id: of its largest run.
      params: trained parameters.
      batch_size: images a step.
      tokens_per_example: of one image.
      flops_per_step: those that count.
      overhead: FLOPs of all networks over those that count.
      overrides: config fields that make it, {} where not known.
    """

    id: str
    params: float
    batch_size: float
    tokens_per_example: float
    flops_per_step: float
    overhead: float
    overrides: dict[str, Any]


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


def recipe(
    sizes: list[Size],
    c: float,
    params: float,
    tokens: float,
    machine: Machine | None,
) -> dict[str, Any]:
    """The run to start for a budget.

    Args:
      sizes: that were run; [] for none.
      c: FLOPs.
      params, tokens: recommended.
      machine: for hours, None for none.

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
