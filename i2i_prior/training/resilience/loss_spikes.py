"""Which losses are not those of a healthy run."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping

_WINDOW = 50  # logged losses that the median is of


class LossSpike(Exception):  # noqa: N818 - no error until it cannot be mended
    """The loss of a step is not to be trusted.

    Attributes:
      step: the update whose metrics are bad, from 1.
    """

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(f"the loss {reason} at step {step}")
        self.step = step


class SpikeDetector:
    """Judges every step's loss by the logged ones before it.

    A spike is a loss above `factor` times the median of the last 50 logged
    losses: the median, because it does not move with a few wild values.
    Logged ones, because they are in metrics.jsonl: a run that resumes judges
    as one that was never cut. The first loss, of a network that knows
    nothing, is there from the start.

    Args:
      factor: of the median; 0 lets every finite loss pass.
      logged: (step, loss) of the log lines so far, in order.
    """

    def __init__(
        self, factor: float, logged: Iterable[tuple[int, float]] = ()
    ) -> None:
        self._factor = factor
        self._logged = deque((loss for _, loss in logged), maxlen=_WINDOW)

    def check(self, step: int, metrics: Mapping[str, float]) -> None:
        """Raises LossSpike where loss or gradient norm is not one to keep.

        Args:
          step: whose they are.
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

    def note(self, loss: float) -> None:
        """A healthy loss was logged."""
        self._logged.append(loss)
