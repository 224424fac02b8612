"""Throughput of a run and its model FLOPs utilisation."""

from __future__ import annotations

import re

from i2i_prior.parallel.chips import PEAK_FLOPS
from i2i_prior.training.telemetry.goodput import DATA_WAIT, STEP, GoodputTimer


def peak_flops(device_kind: str) -> float | None:
    """Peak bf16 FLOP/s of `jax.Device.device_kind`; None where unknown.

    The longest name of PEAK_FLOPS that occurs in `device_kind` as whole words
    counts, so "NVIDIA L40S" is not an L4 and "TPU v5 lite" not a v5p.
    """
    for name in sorted(PEAK_FLOPS, key=len, reverse=True):
        if re.search(rf"\b{re.escape(name)}\b", device_kind, re.IGNORECASE):
            return PEAK_FLOPS[name]
    return None


def mfu(
    flops_per_step: float,
    steps_per_second: float,
    devices: int,
    device_kind: str,
) -> float | None:
    """Model FLOPs utilisation in 0..1; None where the peak is unknown (CPU).

    `flops_per_step` counts what the model needs for the global batch, not
    what remat computes again (Chowdhery et al. 2022, "PaLM", appendix B).
    """
    peak = peak_flops(device_kind)
    if peak is None:
        return None
    return flops_per_step * steps_per_second / (devices * peak)


class Throughput:
    """Rates over windows of steps, without the pauses between them.

    Steps are dispatched ahead of the device: call `window` after something
    has waited for the device, as reading the loss does.

    Args:
      examples_per_step: the global batch.
      timer: of the goodput; seconds of steps and of waits for data count,
        those of compiling and checkpoints do not.
      step: first step of the first window.
    """

    def __init__(
        self, examples_per_step: int, timer: GoodputTimer, step: int = 0
    ) -> None:
        self._examples_per_step, self._timer = examples_per_step, timer
        self.restart(step)

    def restart(self, step: int) -> None:
        """Begins the window here."""
        self._step = step
        self._training = self._timer.spent(STEP)
        self._waiting = self._timer.spent(DATA_WAIT)

    def window(self, step: int) -> dict[str, float]:
        """Returns steps_per_second and examples_per_second since the last call.

        Also `data_wait`, the seconds of the window in which the loop waited
        for a batch, and `goodput`, the share of wall time since the run's
        first start that went into steps, 0..1. The next window begins here.
        """
        waited = self._timer.spent(DATA_WAIT) - self._waiting
        busy = self._timer.spent(STEP) - self._training + waited
        rate = (step - self._step) / max(busy, 1e-9)
        self.restart(step)
        return {
            "steps_per_second": rate,
            "examples_per_second": rate * self._examples_per_step,
            "data_wait": waited,
            "goodput": self._timer.goodput,
        }
