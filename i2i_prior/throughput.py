"""How fast a run is: rates, goodput and FLOPs utilisation."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Dense bf16 peak of one chip in FLOP/s, without sparsity, by a word of the
# device kind. Sources: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e} ("Peak
# compute per chip"); NVIDIA data sheets of A100, H100, H200 and L4 (the
# figures "with sparsity" halved). JAX calls v5e "TPU v5 lite", v5p "TPU v5",
# v6e "TPU v6 lite".
PEAK_FLOPS: dict[str, float] = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "A100": 312e12,
    "H100": 989e12,  # SXM
    "H100 PCIe": 756e12,
    "H200": 989e12,
    "L4": 121e12,
}


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

    throughput = Throughput(examples_per_step=256, start_step=step)
    with throughput.pause("checkpoint"):
        ...
    rates = throughput.window(step)      # at a log step

    Steps are dispatched ahead of the device: call `window` after something
    has waited for the device, as reading the loss does.
    """

    def __init__(
        self,
        examples_per_step: int,
        start_step: int = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._examples_per_step, self._clock = examples_per_step, clock
        self.paused: dict[str, float] = {}
        self._began = self._window_began = clock()
        self._window_step, self._window_paused = start_step, 0.0
        self._pausing = False

    @contextmanager
    def pause(self, name: str) -> Iterator[None]:
        """Time inside counts as `name` (compile, checkpoint), not as steps.

        A pause within a pause belongs to the outer one.
        """
        if self._pausing:
            yield
            return
        self._pausing, began = True, self._clock()
        try:
            yield
        finally:
            self._pausing, seconds = False, self._clock() - began
            self.paused[name] = self.paused.get(name, 0.0) + seconds
            self._window_paused += seconds

    def window(self, step: int) -> dict[str, float]:
        """Rates since the last call: steps_per_second, examples_per_second.

        Also `goodput`, the share of wall time since the start that went into
        steps, 0..1. The next window begins here.
        """
        now = self._clock()
        busy = max(now - self._window_began - self._window_paused, 1e-9)
        rate = (step - self._window_step) / busy
        self._window_began, self._window_paused = now, 0.0
        self._window_step = step
        return {
            "steps_per_second": rate,
            "examples_per_second": rate * self._examples_per_step,
            "goodput": self.goodput,
        }

    @property
    def goodput(self) -> float:
        """Share of wall time since the start that was no pause, 0..1."""
        wall = self._clock() - self._began
        paused = sum(self.paused.values())
        return max(1.0 - paused / wall, 0.0) if wall > 0 else 1.0
