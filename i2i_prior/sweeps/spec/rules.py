"""Rules of `algebra.derived`: steps of a run, and fields in proportion to them.

The proportions are the same at every scale: equal warm-up steps for short and
long runs alone changed the exponent of published laws by 0.1 (arXiv
2406.19146), and an EMA longer than a run measures its start.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from i2i_prior.sweeps.spec.algebra import Draft, LeftOutError, Rule

TOLERANCE = 0.01  # relative error of a budget by rounding to whole steps


@dataclass(frozen=True)
class Proportions:
    """Fields in proportion to the steps of a run."""

    warmup: float = 0.05  # fraction of the steps
    # Warm-up steps; a run of fewer than ten times as many is left out, for it
    # would hardly train at its learning rate.
    least_warmup: int = 10
    ema: float = 0.05  # time constant of the EMA, fraction of the steps
    logs: int = 100  # number in a run, as are the next two
    validations: int = 1
    checkpoints: int = 5

    def of(self, steps: int) -> dict[str, Any]:
        """Overrides of a run of so many steps. Raises LeftOutError for few."""
        if steps < 10 * self.least_warmup:
            raise LeftOutError(
                f"{steps} steps are fewer than ten times the least warm-up "
                f"of {self.least_warmup}"
            )

        def every(times: int) -> int:
            return max(1, math.ceil(steps / times)) if times else 0

        return {
            "train.steps": steps,
            "optim.warmup_steps": max(
                self.least_warmup, round(self.warmup * steps)
            ),
            "train.ema_decay": max(0.0, 1 - 1 / (self.ema * steps)),
            "train.log_every": every(self.logs),
            "train.checkpoint_every": every(self.checkpoints),
            "validation.every": every(self.validations),
        }


def of_flops(proportions: Proportions, label: str = "budget") -> Rule:
    """Rule for runs that spend the training FLOPs of their label.

    FLOPs of the trained networks, counted exactly (`flops.cost`). Runs that no
    whole number of steps brings within `TOLERANCE` of the budget are left out.
    """

    def rule(draft: Draft) -> Mapping[str, Any]:
        budget = draft.labels[label]
        step = draft.cost.training_flops * draft.config.data.batch_size
        steps = round(budget / step)
        if abs(steps * step / budget - 1) > TOLERANCE:
            raise LeftOutError(
                f"{budget:.3g} FLOPs are {budget / step:.3g} steps, which no "
                f"whole number meets within {TOLERANCE:.0%}"
            )
        return proportions.of(steps)

    return rule


def of_tokens(proportions: Proportions, tokens: float) -> Rule:
    """Rule for runs that see so many image tokens, to the nearest step."""

    def rule(draft: Draft) -> Mapping[str, Any]:
        step = draft.cost.tokens * draft.config.data.batch_size
        return proportions.of(max(1, round(tokens / step)))

    return rule
