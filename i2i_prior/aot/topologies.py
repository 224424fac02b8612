"""Machines by name, as `v5p:8x8x4` or `h100x16`, and their devices for XLA."""

import importlib.util
import math
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.parallel.chips import CHIPS, Chip

EXAMPLES = "v5e:16x16, v5p:8x8x4, v5p:8x8x4*2 (two slices) or h100x16"
# What libtpu reads before JAX is imported: no metadata server, no lock file,
# one host. The accelerator type only picks defaults that we give ourselves.
TPU_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}
# Nothing may be measured on a GPU that is not there. Without measuring, XLA
# takes Triton for every matmul, and finds no tiles for some (12608 rows of
# 768); cuBLAS, and not its Lt variant that wants to be measured, takes all.
CUDA_FLAGS = (
    "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false "
    "--xla_gpu_enable_cublaslt=false"
)
CUDA_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": CUDA_FLAGS}


@dataclass(frozen=True)
class Topology:
    """A machine of one kind of chip."""

    text: str  # as it was written
    chip: Chip
    shape: tuple[int, ...]  # chips of a slice along each axis; GPUs of one host
    slices: int = 1  # TPU slices, or GPU hosts, joined by the slow network

    @property
    def chips(self) -> int:
        """Number of chips of all slices."""
        return math.prod(self.shape) * self.slices

    @property
    def wraps(self) -> tuple[bool, ...]:
        """True for each physical axis that closes to a ring."""
        every = self.chip.wrap_every
        ring = [bool(every) and side % every == 0 for side in self.shape]
        # Below one cube of 4x4x4 (v4, v5p) no optical switch closes an axis.
        return tuple(
            closed and (self.chip.axes < 3 or all(ring)) for closed in ring
        )

    def environment(self) -> dict[str, str]:
        """Variables that have to be set before JAX is imported."""
        tpu = self.chip.platform == "tpu"
        return TPU_ENVIRONMENT if tpu else CUDA_ENVIRONMENT


def parse_topology(text: str) -> Topology:
    """`v5e:4x4`, `v5p:8x8x4*2`, `h100x16` -> Topology; UserError if unknown."""
    tpu = re.fullmatch(r"(v\d\w?):(\d+(?:x\d+)*)(?:\*(\d+))?", text)
    gpu = re.fullmatch(r"([a-z]+\d+)x(\d+)", text)
    match = tpu or gpu
    if match is None or match[1] not in CHIPS:
        raise UserError(
            f"topology {text!r} is unknown; chips are {', '.join(CHIPS)}, "
            f"written as {EXAMPLES}"
        )
    chip = CHIPS[match[1]]
    if chip.platform == "cuda":
        return _gpu_topology(text, chip, int(match[2]))
    sides = tuple(int(side) for side in match[2].split("x"))
    _check_shape(text, chip, sides)
    slices = int(match[3] or 1)
    if slices < 1:
        raise UserError(f"topology {text}: at least one slice")
    return Topology(text, chip, sides, slices)


def _gpu_topology(text: str, chip: Chip, gpus: int) -> Topology:
    host = chip.host[0]
    if gpus < 1 or (gpus > host and gpus % host):
        raise UserError(
            f"topology {text}: hosts have {host} GPUs, so give up to {host} "
            "or a multiple"
        )
    return Topology(text, chip, (min(gpus, host),), max(gpus // host, 1))


def _check_shape(text: str, chip: Chip, sides: tuple[int, ...]) -> None:
    """Cloud TPU's shapes: see the documents named in `chips`."""
    count = math.prod(sides)
    if chip.axes == 2:
        shapes = "two sides of 2, 4, 8 or 16, or 1x1"
        fits = sides == (1, 1) or all(side in (2, 4, 8, 16) for side in sides)
    else:
        shapes = "2x2x1, 2x2x2, 2x2x4, 2x4x4, or three multiples of 4"
        small = sorted(sides) in ([1, 2, 2], [2, 2, 2], [2, 2, 4], [2, 4, 4])
        # Of the small shapes, one host is 2x2x1 and no other way round.
        hosts = not any(map(operator.mod, sides, chip.host))
        fits = (small and hosts) or all(side % 4 == 0 for side in sides)
    if len(sides) != chip.axes or not fits or not 1 <= count <= chip.largest:
        raise UserError(
            f"topology {text}: {chip.name} has no such shape; it takes "
            f"{shapes}, of at most {chip.largest} chips"
        )


def find_devices(topology: Topology) -> Sequence[Any]:
    """Devices to compile for; `Topology.environment` must be set by then."""
    from jax.experimental.topologies import get_topology_desc

    check_compiler(topology)
    chip = topology.chip
    if chip.platform == "cuda":
        _assume_cudnn()
        return get_topology_desc(
            chip.name,
            "cuda",
            target_config=_target_config(chip),
            topology=f"{topology.slices}x1x{topology.shape[0]}",
        ).devices
    options: dict[str, Any] = {"num_slices": topology.slices}
    if chip.name == "v4":
        # One device a chip, as the runtime has it; the default is two.
        options["chip_config_name"] = "megacore"
    if topology.shape == (1, 1):
        options["chips_per_host_bounds"] = (1, 1, 1)
    sides = "x".join(map(str, topology.shape))
    return get_topology_desc(f"{chip.name}:{sides}", "tpu", **options).devices


def check_compiler(topology: Topology) -> None:
    """Raises UserError if XLA's compiler for the platform is not installed."""
    module, extra, what = "jax_plugins.xla_cuda12", "aot-cuda", "CUDA"
    if topology.chip.platform == "tpu":
        module, extra, what = "libtpu", "tpu", "TPU"
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise UserError(
            f"XLA's {what} compiler is not installed here; run "
            f"pip install 'i2i-prior[{extra}]' (Linux, no {what} needed)"
        )


def coordinates(topology: Topology, devices: np.ndarray) -> np.ndarray:
    """Coordinates of each device of a mesh, int (*devices.shape, 1 + axes).

    The slice (or GPU host), then the position along each physical axis
    (within the host).
    """

    def place(device: Any) -> list[int]:
        if topology.chip.platform == "cuda":
            return list(divmod(device.id, topology.shape[0]))
        slice_index = getattr(device, "slice_index", None) or 0
        return [slice_index, *device.coords[: topology.chip.axes]]

    flat = np.array([place(device) for device in devices.flat])
    return flat.reshape(*devices.shape, -1)


def _assume_cudnn() -> None:
    """Replaces JAX's check of cuDNN, which this machine need not have.

    JAX asks this process' own cuDNN for its version when it traces fused
    attention; the compiler itself only reads `target_config`.
    """
    from jax._src.cudnn import fused_attention_stablehlo

    fused_attention_stablehlo.check_cudnn_version = lambda: 9_10_00


def _target_config(chip: Chip) -> str:
    """XLA's GpuTargetConfig in text format, for Hopper chips.

    Figures: CUDA programming guide, table of compute capability 9.0, and the
    data sheets named in `chips`.
    """
    return f"""
platform_name: "CUDA"
device_description_str: "NVIDIA {chip.kind}"
dnn_version_info {{ major: 9 minor: 10 }}
gpu_device_info {{
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  name: "NVIDIA {chip.kind}"
  platform_version: "Compute Capability 9.0a"
  device_vendor: "NVIDIA Corporation"
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  l2_cache_size: 52428800
  memory_bandwidth: {int(chip.memory_bandwidth)}
  device_memory_size: {chip.usable_memory}
  device_address_bits: 64
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  driver_version: "13.0.0"
  runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
  device_interconnect_info {{ active_links: 18 }}
}}
"""
