"""Loss spikes: losses that a healthy run does not have."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping

_WINDOW = 50  # logged losses that the median is of


class LossSpike(Exception):  # noqa: N818 - a rollback can recover from it
    """Loss or gradient norm of a step is not finite, or the loss too large.

    Attributes:
      step: the update whose metrics are bad, from 1.
    """

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(f"the loss {reason} at step {step}")
        self.step = step


class SpikeDetector:
    """Compares every step's loss with the logged losses before it.

    A spike is a loss above `factor` times the median of the last 50 logged
    losses: the median, because it does not move with a few wild values.
    Logged ones, because they are in metrics.jsonl: a run that resumes decides
    as one that was never cut.

    Args:
      factor: of the median; 0 lets every finite loss pass.
      logged: losses of the log lines so far, in order.
    """

    def __init__(self, factor: float, logged: Iterable[float] = ()) -> None:
        self._factor = factor
        self._logged = deque(logged, maxlen=_WINDOW)

    def check(self, step: int, metrics: Mapping[str, float]) -> None:
        """Raises LossSpike if loss or gradient norm of a step are bad.

        Args:
          step: the update, from 1.
          metrics: with `loss` and `grad_norm`.
        """
        loss = metrics["loss"]
        if not (math.isfinite(loss) and math.isfinite(metrics["grad_norm"])):
            raise LossSpike(step, "is not finite")
        if not self._factor or not self._logged:
            return
        median = statistics.median(self._logged)
        if loss > self._factor * median > 0:
            raise LossSpike(
                step,
                f"is {loss:.4g}, more than train.loss_spike "
                f"{self._factor:g} times the usual {median:.4g},",
            )

    def add(self, loss: float) -> None:
        """Adds a healthy loss that was logged."""
        self._logged.append(loss)
