"""Metrics of the steps: buffered on the devices, read late, checked, logged.

Metrics stay on the devices until two further steps are dispatched, so that
the devices never wait for the host. A line of step k holds metrics of step k
all the same.
"""

from collections import deque
from typing import Any

import jax
from ml_collections import ConfigDict

from i2i_prior.distributed import runtime
from i2i_prior.io.progress import Progress
from i2i_prior.training.resilience.rollback import LossSpike, SpikeDetector
from i2i_prior.training.telemetry.goodput import GoodputTimer, Throughput, mfu
from i2i_prior.training.telemetry.metric_writer import (
    MetricWriter,
    read_metrics,
)

_IN_FLIGHT = 2  # steps; more would only hold more batches in memory


class MetricBuffer:
    """Reads the metrics of steps in order, checks and logs them.

    `schedule` maps an update (from 0) to its learning rate; `flops` of one
    step are for MFU.
    """

    def __init__(
        self,
        config: ConfigDict,
        writer: MetricWriter,
        timer: GoodputTimer,
        schedule: Any,
        flops: float,
    ) -> None:
        self.writer, self.timer = writer, timer
        self._config, self._schedule, self._flops = config, schedule, flops
        self._throughput = Throughput(config.data.batch_size, timer)
        self._pending: deque[tuple[int, dict[str, Any]]] = deque()

    def begin(self, step: int) -> None:
        """Begins at `step`: at the start and after a rollback."""
        self._start, train = step, self._config.train
        self._pending.clear()
        logged = [
            line["loss"]
            for line in read_metrics(self.writer.workdir)
            if "loss" in line and self._is_log_step(line["step"])
        ]
        self._spikes = SpikeDetector(train.loss_spike, logged)
        self._throughput.restart(step)
        write = runtime.is_primary()
        self._progress = Progress(
            train.steps, step, self._config.name, write=write
        )

    def restart_clock(self, step: int) -> None:
        """Measures rates and the time left from here: a step has compiled."""
        self._throughput.restart(step)
        self._progress.restart(step)

    def add(
        self, step: int, metrics: dict[str, Any], counts: dict[str, int]
    ) -> None:
        """Adds a step that was dispatched; reads that of two steps before.

        A LossSpike is raised if that one is bad. `step` is the update, from 1,
        `metrics` are its scalars, on the devices, and `counts` those of what
        went wrong so far; zeros are not logged.
        """
        if self._is_logged(step):
            # Dispatched here: read later, it would wait for the newer steps.
            metrics = {**metrics, "learning_rate": self._schedule(step - 1)}
        for value in jax.tree.leaves(metrics):
            if isinstance(value, jax.Array):
                value.copy_to_host_async()
        nonzero = {name: count for name, count in counts.items() if count}
        self._pending.append((step, {**metrics, **nonzero}))
        while len(self._pending) > _IN_FLIGHT:
            self._read(*self._pending.popleft())

    def drain(self) -> None:
        """Waits for all dispatched steps; raises LossSpike at a bad one."""
        while self._pending:
            self._read(*self._pending.popleft())

    def close(self) -> None:
        """Ends the progress line."""
        self._progress.close()

    def _read(self, step: int, metrics: dict[str, Any]) -> None:
        values = {name: float(v) for name, v in metrics.items()}
        try:
            self._spikes.check(step, values)
        except LossSpike:
            self._log(step, values)
            raise
        if self._is_logged(step):
            self._log(step, values)
        else:
            self._progress.update(step)
        if self._is_log_step(step):
            self._spikes.add(values["loss"])

    def _log(self, step: int, values: dict[str, float]) -> None:
        rates = self._throughput.window(step)
        if not rates["steps_per_second"]:  # the first step, which compiled
            rates = {}
        else:
            speed, devices = rates["steps_per_second"], jax.devices()
            kind = devices[0].device_kind
            utilisation = mfu(self._flops, speed, len(devices), kind)
            if utilisation is not None:
                rates["mfu"] = utilisation
        self.writer.scalars(step, {**values, **rates})
        self.timer.save(now=False)
        self._progress.update(
            step,
            loss=values["loss"],
            examples_per_second=rates.get("examples_per_second"),
            mfu=rates.get("mfu"),
        )

    def _is_log_step(self, step: float) -> bool:
        """Returns True if it is logged however often the run was cut."""
        return step == 1 or step % self._config.train.log_every == 0

    def _is_logged(self, step: int) -> bool:
        return self._is_log_step(step) or step == self._start + 1
