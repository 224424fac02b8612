"""Best checkpoint of a run by one metric: never removed, and recorded.

RUN/best.json holds its step, metric and value. It is written once that
checkpoint is on disk, and the one before is kept until then, so that it
always names a checkpoint that is there.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from i2i_prior.checkpoint.restore import BEST
from i2i_prior.checkpoint.run_dir import read_json, write_json
from i2i_prior.checkpoint.train_state import TrainState
from i2i_prior.distributed import runtime
from i2i_prior.errors import UserError
from i2i_prior.evaluation.metrics import lower_is_better
from i2i_prior.evaluation.result import result_path
from i2i_prior.training.evaluators.base import (
    Evaluator,
    EvaluatorContext,
    Images,
    Scalars,
)

# Settings that two results share if their metrics can be compared.
_SETTINGS = (
    *("num_samples", "per_condition", "extractor", "seed"),
    *("solver", "steps", "guidance"),
)


class BestCheckpoint(Evaluator):
    """Keeps the best checkpoint so far by `evaluate.best_metric`.

    Runs after each evaluation, and also if the metrics of a step were there:
    the run that left them may have been cut before it saved the checkpoint.
    """

    name = "best_checkpoint"
    at_start = True  # an unknown metric is refused before hours of training
    timed_as = "checkpoint"

    def __init__(self, context: EvaluatorContext) -> None:
        config = context.config
        self.metric = config.evaluate.best_metric
        super().__init__(
            context, config.train.evaluate_every if self.metric else 0
        )
        self._file = context.workdir / BEST
        found = read_json(self._file) if self._file.exists() else {}
        self._record: dict[str, Any] = found
        # Also if the metric is another now, until one is better by it.
        context.checkpoints.protect(self._record.get("step"))

    def done(self, step: int) -> bool:
        return False

    def run(self, state: TrainState, step: int) -> tuple[Scalars, Images]:
        text = "{}"
        if runtime.is_primary():
            extractor = self.context.eval_spec.extractor
            path = result_path(self.context.workdir, step, extractor)
            text = json.dumps(read_json(path))
        result = json.loads(runtime.allgather_text("scores", text)[0])
        self.consider(result, lambda: self.context.save(state, step))
        return {}, {}

    def consider(
        self, result: Mapping[str, Any], save: Callable[[], None]
    ) -> None:
        """Keeps the checkpoint of a result if it is the best so far.

        A result (step, metrics and settings, the same on all processes) that is
        considered twice makes no difference; `save` saves its state. UserError
        if the result has no such metric.
        """
        metrics = result["metrics"]
        if self.metric not in metrics:
            raise UserError(
                f"evaluate.best_metric {self.metric} is not evaluated; choose "
                f"one of {', '.join(metrics)}"
            )
        value = metrics[self.metric]
        # Step 0 has learnt nothing and has no checkpoint.
        if not result["step"] or not self._is_better(value, result):
            return
        save()
        self.context.checkpoints.wait()
        self._record = {
            "step": result["step"],
            "metric": self.metric,
            "value": value,
            "comparable": _settings(result),
        }
        if runtime.is_primary():
            write_json(self._file, self._record)
        self.context.checkpoints.protect(result["step"])

    def forget_after(self, step: int) -> None:
        if self._record.get("step", 0) > step:
            self._record = {}
            self.context.checkpoints.protect(None)
            if runtime.is_primary():
                self._file.unlink(missing_ok=True)

    def _is_better(
        self, value: float | None, result: Mapping[str, Any]
    ) -> bool:
        if value is None or not math.isfinite(value):
            return False
        best = self._record
        compared = self.metric, _settings(result)
        if compared != (best.get("metric"), best.get("comparable")):
            return True  # of other samples or features: nothing to compare
        if result["step"] == best["step"]:
            return False
        sign = -1 if lower_is_better(self.metric) else 1
        return sign * value > sign * best["value"]


def _settings(result: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: result.get(name) for name in _SETTINGS}
    return found | {"reference": result.get("reference", {}).get("hash")}
