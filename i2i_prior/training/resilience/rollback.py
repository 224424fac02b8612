"""Loss spikes, and rollbacks: the last good checkpoint and new batches.

After a bad step s a run goes on from its last good checkpoint c with other
batches: all that were seen between c and s, before and during the spike, are
skipped. That is the remedy of Chowdhery et al. 2022, "PaLM", section 5.1,
which found that spikes need a state and a batch, and are not due to bad data
as such. So the data step of an update is its number plus an offset that grows
with every rollback. `rollbacks.json` holds the offsets, written before the
run goes on: a later resume reads the same batches.

Random draws stay functions of the update, fold_in(run key, step): after a
rollback the same noise and times are drawn for other images. Functions of the
data step would need a number more in every checkpoint, for pairs of image and
noise that are no newer.
"""

import contextlib
import math
import statistics
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

from i2i_prior.checkpoint.run_dir import read_json, write_json
from i2i_prior.data.broken import Batch

_FILE = "rollbacks.json"
_WINDOW = 50  # logged losses that the median is of


class LossSpike(Exception):  # noqa: N818 - a rollback can recover from it
    """Loss or gradient norm of `step` is not finite, or the loss too large.

    Updates count from 1.
    """

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(f"the loss {reason} at step {step}")
        self.step = step


class SpikeDetector:
    """Compares every step's loss with the logged losses before it.

    A spike is a loss above `factor` (0: none is) times the median of the last
    50 logged losses: the median, because it does not move with a few wild
    values. Logged ones, because they are in metrics.jsonl: a run that resumes
    decides as one that was never cut.
    """

    def __init__(self, factor: float, logged: Iterable[float] = ()) -> None:
        self._factor = factor
        self._logged = deque(logged, maxlen=_WINDOW)

    def check(self, step: int, metrics: Mapping[str, float]) -> None:
        """Raises LossSpike if `loss` or `grad_norm` of a step are bad."""
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


class Rollbacks:
    """Rollbacks of a run, and the batches that they skip; `write` is False on
    all processes but the first."""

    def __init__(self, workdir: Path, write: bool = True) -> None:
        self._workdir, self._write = Path(workdir), write
        file = self._workdir / _FILE
        found = read_json(file) if file.exists() else []
        self._all: list[dict[str, Any]] = found

    def __len__(self) -> int:
        return len(self._all)

    def data_step(self, step: int) -> int:
        """Number of the batch that the update of a state of `step` sees."""
        # In order of time: of those that apply the newest counts.
        offsets = [r["offset"] for r in self._all if r["to"] <= step]
        return step + (offsets[-1] if offsets else 0)

    def batches(self, pipeline: Any, step: int) -> Generator[Batch]:
        """Yields batches of the updates after `step`, without end, from a
        pipeline with `batches_from(data_step)`."""
        jumps = sorted({r["to"] for r in self._all if r["to"] > step})
        for begin, end in zip([step, *jumps], [*jumps, None], strict=True):
            batches = pipeline.batches_from(self.data_step(begin))
            with contextlib.closing(batches):
                while end is None or begin < end:
                    yield next(batches)
                    begin += 1

    def is_checkpoint_bad(self, step: int, spike: LossSpike) -> bool:
        """Returns True if the state of a checkpoint, not a batch, is bad.

        That is if the first loss of its state is bad, and was bad with other
        batches when the run last went back to it.
        """
        if not self._all or spike.step != step + 1:
            return False
        last = self._all[-1]
        return (last["to"], last["bad_step"]) == (step, spike.step)

    def add(self, good: int, spike: LossSpike) -> int:
        """Adds a rollback to step `good`; returns how many batches it skips."""
        # The update spike.step learnt from the batch of step spike.step - 1.
        following = self.data_step(spike.step - 1) + 1
        skipped = following - self.data_step(good)
        rollback = {"to": good, "bad_step": spike.step, "reason": str(spike)}
        self._all.append({**rollback, "offset": following - good})
        if self._write:
            write_json(self._workdir / _FILE, self._all)
        return skipped
