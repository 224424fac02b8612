"""Back to the last good checkpoint, and past the batches that spoilt a run.

After a bad step s a run goes on from its last good checkpoint c with other
batches: all that were seen between c and s, before and during the spike, are
skipped. That is the remedy of Chowdhery et al. 2022, "PaLM", section 5.1,
which found that spikes come from a state and a batch meeting, not from bad
data as such. So the data step of an update is its number plus an offset that
grows with every rollback. `rollbacks.json` holds them, written before the run
goes on: a later resume reads the same batches.

Random draws stay functions of the update, fold_in(run key, step): after a
rollback the same noise and times meet other images. To tie them to the data
step would put a number into TrainState and into every checkpoint, for pairs
of image and noise that are as new as these.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

from i2i_prior.checkpoint.run_dir import (
    read_json,
    write_json,
)
from i2i_prior.data.broken import Batch
from i2i_prior.training.resilience.loss_spikes import LossSpike

FILE = "rollbacks.json"


class Rollbacks:
    """The rollbacks of a run, and the batches that they leave out.

    Args:
      workdir: the run directory.
      write: whether this process writes there.
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
        """Which batch the update from `step` to `step` + 1 learns from."""
        # In the order they came: of those that apply the newest counts.
        offsets = [r["offset"] for r in self._all if r["to"] <= step]
        return step + (offsets[-1] if offsets else 0)

    def batches(self, pipeline: Any, step: int) -> Generator[Batch]:
        """Endless batches of the updates from `step` on, made ahead.

        Args:
          pipeline: with `batches_from(data_step)`.
          step: updates done.
        """
        turns = sorted({r["to"] for r in self._all if r["to"] > step})
        for begin, end in zip([step, *turns], [*turns, None], strict=True):
            batches = pipeline.batches_from(self.data_step(begin))
            with contextlib.closing(batches):
                while end is None or begin < end:
                    yield next(batches)
                    begin += 1

    def spoilt(self, good: int, bad: LossSpike) -> bool:
        """Whether it is the checkpoint `good` that is not good.

        So it is where the first loss on its state is bad, and was bad with
        other batches when the run last went back to it.
        """
        if not self._all or bad.step != good + 1:
            return False
        last = self._all[-1]
        return (last["to"], last["bad_step"]) == (good, bad.step)

    def add(self, good: int, bad: LossSpike) -> int:
        """Notes that the run goes on from `good`; returns batches skipped.

        Raises:
          UserError: where it cannot be written.
        """
        # The update bad.step learnt from the batch of step bad.step - 1.
        following = self.data_step(bad.step - 1) + 1
        skipped = following - self.data_step(good)
        self._all.append(
            {
                "to": good,
                "bad_step": bad.step,
                "reason": str(bad),
                "offset": following - good,
            }
        )
        if self._write:
            write_json(self._workdir / FILE, self._all)
        return skipped


def forget_pictures(workdir: Path, step: int) -> None:
    """Removes grids and scores of steps after `step`: they come again."""
    for path in [
        *(workdir / "samples").glob("*.png"),
        *(workdir / "evaluations").glob("*.json"),
        *(workdir / "evaluations").glob("*.png"),
    ]:
        number = path.stem.split("-")[0]
        if number.isdigit() and int(number) > step:
            path.unlink(missing_ok=True)
