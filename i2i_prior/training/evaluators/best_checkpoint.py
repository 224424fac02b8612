"""The best checkpoint of a run by one metric: never removed, and named.

RUN/best.json says which it is: step, metric, value and where the whole result
stands. It is written once that checkpoint is on disk, and the one before is
kept until then, so that it always names one that is there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from i2i_prior.checkpoint.checkpointer import Checkpoints
from i2i_prior.checkpoint.restore import BEST
from i2i_prior.checkpoint.run_dir import (
    read_json,
    write_json,
)
from i2i_prior.errors import UserError
from i2i_prior.evaluation.directions import lower_is_better

_ALIKE = (
    "num_samples",
    "per_condition",
    "extractor",
    "seed",
    "solver",
    "steps",
    "guidance",
)


class Best:
    """Keeps the best checkpoint so far; without a metric it does nothing.

    All processes of a run call alike, with the same results.

    Args:
      workdir: the run directory.
      checkpoints: of the run.
      metric: a name in the results' metrics, "" for none.
      write: whether this process writes.
    """

    def __init__(
        self,
        workdir: Path,
        checkpoints: Checkpoints,
        metric: str,
        write: bool = True,
    ):
        self._file = Path(workdir) / BEST
        self._checkpoints = checkpoints
        self.metric, self._write = metric, write
        self._record: dict[str, Any] = (
            read_json(self._file) if self._file.exists() else {}
        )
        # Also where the metric is another now, until one is better by it.
        checkpoints.protect(self._record.get("step"))

    def consider(
        self, result: Mapping[str, Any], save: Callable[[], None]
    ) -> bool:
        """Keeps the checkpoint of this result, if it is the best so far.

        Args:
          result: with step, metrics and settings; asked about twice, it
            makes no difference.
          save: saves the state that the result is of.

        Returns:
          whether it is the best.

        Raises:
          UserError: where the result has no such metric.
        """
        if not self.metric:
            return False
        metrics = result["metrics"]
        if self.metric not in metrics:
            raise UserError(
                f"evaluate.best_metric {self.metric} is not evaluated; choose "
                f"one of {', '.join(metrics)}"
            )
        value = metrics[self.metric]
        # Step 0 has learnt nothing and has no checkpoint.
        if not result["step"] or not self._better(value, result):
            return False
        save()
        self._checkpoints.wait()
        self._record = {
            "step": result["step"],
            "metric": self.metric,
            "value": value,
            "comparable": _comparable(result),
        }
        if self._write:
            write_json(self._file, self._record)
        self._checkpoints.protect(result["step"])
        return True

    def rewind(self, step: int) -> None:
        """Forgets a best one after `step`, to which the run went back."""
        if self._record.get("step", 0) > step:
            self._record = {}
            self._checkpoints.protect(None)
            if self._write:
                self._file.unlink(missing_ok=True)

    def _better(self, value: float | None, result: Mapping[str, Any]) -> bool:
        if value is None or not math.isfinite(value):
            return False
        before = self._record
        alike = self.metric, _comparable(result)
        if alike != (before.get("metric"), before.get("comparable")):
            return True  # of other samples or features: nothing to compare
        if result["step"] == before["step"]:
            return False
        sign = -1 if lower_is_better(self.metric) else 1
        return sign * value > sign * before["value"]


def _comparable(result: Mapping[str, Any]) -> dict[str, Any]:
    """What two results must have alike to be compared."""
    found = {name: result.get(name) for name in _ALIKE}
    return found | {"reference": result.get("reference", {}).get("hash")}
