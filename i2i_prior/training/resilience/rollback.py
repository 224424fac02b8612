"""Rollbacks: after a loss spike, the last good checkpoint and new batches.

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

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

from i2i_prior.checkpoint.run_dir import read_json, write_json
from i2i_prior.data.broken import Batch
from i2i_prior.training.resilience.loss_spikes import LossSpike

FILE = "rollbacks.json"


class Rollbacks:
    """Rollbacks of a run, and the batches that they skip.

    Args:
      workdir: the run directory.
      write: False on all processes but the first.
    """

    def __init__(self, workdir: Path, write: bool = True) -> None:
        self._workdir, self._write = Path(workdir), write
        file = self._workdir / FILE
        self._all: list[dict[str, Any]] = (
            read_json(file) if file.exists() else []
        )

    def __len__(self) -> int:
        return len(self._all)

    def data_step(self, step: int) -> int:
        """Number of the batch that the update of a state of `step` sees."""
        # In order of time: of those that apply the newest counts.
        offsets = [r["offset"] for r in self._all if r["to"] <= step]
        return step + (offsets[-1] if offsets else 0)

    def batches(self, pipeline: Any, step: int) -> Generator[Batch]:
        """Yields batches of the updates from `step` on, without end.

        Args:
          pipeline: with `batches_from(data_step)`.
          step: updates done.
        """
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
        """Adds a rollback to step `good`; returns how many batches it skips.

        Raises:
          UserError: if it cannot be written.
        """
        # The update spike.step learnt from the batch of step spike.step - 1.
        following = self.data_step(spike.step - 1) + 1
        skipped = following - self.data_step(good)
        self._all.append(
            {
                "to": good,
                "bad_step": spike.step,
                "reason": str(spike),
                "offset": following - good,
            }
        )
        if self._write:
            write_json(self._workdir / FILE, self._all)
        return skipped
