"""From a recommended size and token count to what one would start."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from i2i_prior.aot.machine import Machine
from i2i_prior.scaling_laws.points import Table


@dataclass(frozen=True)
class Size:
    """A config that was run.

    Attributes:
      id: of the largest run of it.
      params: trained ones.
      batch_size: images a step.
      tokens_per_example: of one image.
      flops_per_step: those that count.
      overhead: FLOPs of all networks over those.
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
    """Each size of run directories once, ascending; [] for a CSV file."""
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
    """What to start for a budget.

    Args:
      sizes: that were run; [] leaves out what takes them.
      c: FLOPs.
      params, tokens: recommended.
      machine: for hours, None for none.

    Returns:
      steps (of the recommended tokens) and batch_size; nearest: {id, params,
      steps (that spend c on it), overrides}; hours, chip_hours, machine.
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


def plain(sizes: list[Size]) -> list[dict[str, Any]]:
    """Sizes as laws.json has them."""
    return [dataclasses.asdict(size) for size in sizes]
