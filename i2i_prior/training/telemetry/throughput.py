"""How fast a run is: rates and FLOPs utilisation."""

from __future__ import annotations

import re

from i2i_prior.parallel.chips import PEAK_FLOPS
from i2i_prior.training.telemetry.goodput import (
    DATA_WAIT,
    STEP,
    Ledger,
)


def peak_flops(device_kind: str) -> float | None:
    """Peak bf16 FLOP/s of `jax.Device.device_kind`; None where unknown.

    The longest name in PEAK_FLOPS that stands in `device_kind` as whole words
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
    """Speed over windows of steps, without the pauses between them.

    Steps are dispatched ahead of the device: call `window` after something
    has waited for the device, as reading the loss does.

    Args:
      examples_per_step: the global batch.
      ledger: where the seconds went; steps and waits for data count here,
        compiling and checkpoints do not.
      step: where the first window begins.
    """

    def __init__(
        self, examples_per_step: int, ledger: Ledger, step: int = 0
    ) -> None:
        self._examples_per_step, self._ledger = examples_per_step, ledger
        self.restart(step)

    def restart(self, step: int) -> None:
        """The window begins here."""
        self._step = step
        self._training = self._ledger.spent(STEP)
        self._waiting = self._ledger.spent(DATA_WAIT)

    def window(self, step: int) -> dict[str, float]:
        """Rates since the last call: steps_per_second, examples_per_second.

        Also `data_wait`, the seconds of the window in which the loop waited
        for a batch, and `goodput`, the share of wall time since the run's
        first start that went into steps, 0..1. The next window begins here.
        """
        waited = self._ledger.spent(DATA_WAIT) - self._waiting
        busy = self._ledger.spent(STEP) - self._training + waited
        rate = (step - self._step) / max(busy, 1e-9)
        self.restart(step)
        return {
            "steps_per_second": rate,
            "examples_per_second": rate * self._examples_per_step,
            "data_wait": waited,
            "goodput": self._ledger.goodput,
        }
