"""What is known of the steps: read late, judged, written down.

Metrics stay on the devices until two further steps are dispatched, so that
the devices never wait for the host. What is written under step k is of step k
all the same.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from i2i_prior.distributed import runtime
from i2i_prior.io.progress import (
    Progress,
)
from i2i_prior.training.resilience.loss_spikes import (
    LossSpike,
    SpikeDetector,
)
from i2i_prior.training.telemetry.goodput import Ledger
from i2i_prior.training.telemetry.metric_writer import (
    MetricWriter,
    read_metrics,
)
from i2i_prior.training.telemetry.throughput import (
    Throughput,
    mfu,
)

_AHEAD = 2  # steps in flight; more would only hold more batches in memory


class Journal:
    """Reads the metrics of steps in order, judges and logs them.

    Args:
      config: of the run.
      workdir: the run directory.
      writer: of its metrics.
      ledger: where its time goes.
      schedule: update (from 0) -> learning rate.
      flops: of one step, for MFU.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        writer: MetricWriter,
        ledger: Ledger,
        schedule: Any,
        flops: float,
    ) -> None:
        self._config, self._workdir = config, workdir
        self._writer, self._ledger = writer, ledger
        self._schedule, self._flops = schedule, flops
        self._throughput = Throughput(config.data.batch_size, ledger)
        self._flying: deque[tuple[int, dict[str, Any]]] = deque()

    def begin(self, step: int) -> None:
        """Steps go on from `step`: at the start and after a rollback."""
        self._start = step
        self._flying.clear()
        self._watch = SpikeDetector(
            self._config.train.loss_spike,
            [
                (int(line["step"]), line["loss"])
                for line in read_metrics(self._workdir)
                if "loss" in line and self._usual(line["step"])
            ],
        )
        self._throughput.restart(step)
        self._progress = Progress(
            self._config.train.steps,
            step,
            self._config.name,
            write=runtime.is_primary(),
        )

    def compiled(self, step: int) -> None:
        """Rates and the time left count from here."""
        self._throughput.restart(step)
        self._progress.restart(step)

    def add(
        self, step: int, metrics: dict[str, Any], counts: dict[str, int]
    ) -> None:
        """Notes a step that was dispatched; reads that of two steps before.

        Args:
          step: the update, from 1.
          metrics: its scalars, on the devices.
          counts: of what went wrong so far; zeros are not written.

        Raises:
          LossSpike: where the step that was read is bad.
        """
        if self._logged(step):
            # Dispatched here: read later, it would wait for the newer steps.
            metrics = {**metrics, "learning_rate": self._schedule(step - 1)}
        for value in jax.tree.leaves(metrics):
            if isinstance(value, jax.Array):
                value.copy_to_host_async()
        wrong = {name: count for name, count in counts.items() if count}
        self._flying.append((step, {**metrics, **wrong}))
        while len(self._flying) > _AHEAD:
            self._settle(*self._flying.popleft())

    def drain(self) -> None:
        """Waits for all steps that were dispatched, and reads them.

        Raises:
          LossSpike: at the first bad one.
        """
        while self._flying:
            self._settle(*self._flying.popleft())

    def close(self) -> None:
        """Ends the progress line."""
        self._progress.close()

    def _settle(self, step: int, metrics: dict[str, Any]) -> None:
        values = {name: float(v) for name, v in metrics.items()}
        try:
            self._watch.check(step, values)
        except LossSpike:
            self._log(step, values)
            raise
        if self._logged(step):
            self._log(step, values)
        else:
            self._progress.update(step)
        if self._usual(step):
            self._watch.note(values["loss"])

    def _log(self, step: int, values: dict[str, float]) -> None:
        rates = self._throughput.window(step)
        if not rates["steps_per_second"]:  # the first step, which compiled
            rates = {}
        else:
            utilisation = mfu(
                self._flops,
                rates["steps_per_second"],
                jax.device_count(),
                jax.devices()[0].device_kind,
            )
            if utilisation is not None:
                rates["mfu"] = utilisation
        self._writer.scalars(step, {**values, **rates})
        self._ledger.save(now=False)
        self._progress.update(
            step,
            loss=values["loss"],
            examples_per_second=rates.get("examples_per_second"),
            mfu=rates.get("mfu"),
        )

    def _usual(self, step: float) -> bool:
        """Whether it is logged however often the run was cut."""
        return step == 1 or step % self._config.train.log_every == 0

    def _logged(self, step: int) -> bool:
        return self._usual(step) or step == self._start + 1
