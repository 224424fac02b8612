"""Processors and GPUs of one machine, divided among parallel runs."""

import contextlib
import itertools
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from i2i_prior.errors import UserError

_MEMORY = 0.9  # fraction of a GPU's memory for all runs that share it


@dataclass(frozen=True)
class Slot:
    """Processors and GPUs of one run at a time."""

    cpus: tuple[int, ...]
    environment: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        gpus = self.environment.get("CUDA_VISIBLE_DEVICES")
        number = len(self.cpus)
        cpus = "1 CPU" if number == 1 else f"{number} CPUs"
        return cpus + (f", GPU {gpus}" if gpus else "")


def make_slots(count: int, gpus: list[str]) -> list[Slot]:
    """Divides this machine evenly into slots; 0 for one a GPU, or one.

    GPUs are named as in CUDA_VISIBLE_DEVICES. UserError where the count is
    negative.
    """
    if count < 0:
        raise UserError(f"slots is {count}; give 1 or more, or 0 for one a GPU")
    count = count or len(gpus) or 1
    cpus = _split(sorted(os.sched_getaffinity(0)), count)
    if not gpus:
        return [Slot(tuple(share)) for share in cpus]
    slots = []
    for share, own in zip(cpus, _split(gpus, count), strict=True):
        environment = {"CUDA_VISIBLE_DEVICES": ",".join(own)}
        sharing = -(-count // len(gpus))
        if sharing > 1 and "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:
            fraction = f"{_MEMORY / sharing:.3f}"
            environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = fraction
        slots.append(Slot(tuple(share), environment))
    return slots


def _split(items: list, count: int) -> list[list]:
    """Splits a list into contiguous parts; too few items are repeated."""
    if count > len(items):
        return [[items[i % len(items)]] for i in range(count)]
    ends = [i * len(items) // count for i in range(count + 1)]
    return [items[a:b] for a, b in itertools.pairwise(ends)]


def find_gpus() -> list[str]:
    """Lists the GPUs that JAX would use, without importing it."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name not in ("", "-1")]
    query = ("nvidia-smi", "--query-gpu=index", "--format=csv,noheader")
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        text = subprocess.run(
            query, capture_output=True, text=True, timeout=30, check=True
        ).stdout
        return text.split()
    devices = Path("/dev").glob("nvidia[0-9]*")
    return sorted(path.name.removeprefix("nvidia") for path in devices)
