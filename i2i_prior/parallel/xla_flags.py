"""Flags of XLA's compiler by backend, each with its reason.

XLA and libtpu end the process over a flag that they do not know, so flags are
set only with the version they were checked with, and what the user sets in
XLA_FLAGS or LIBTPU_INIT_ARGS wins. JAX reads both once: `apply` comes before
the import of JAX.

GPU flags were looked up in jaxlib 0.10.2 and in the CUDA plugin of 0.10.2,
and described by docs.nvidia.com/jax-toolbox (GPU performance) and
docs.jax.dev/en/latest/gpu_performance_tips.html. TPU flags were compiled
ahead of time with libtpu 0.0.42.1 for a scanned, rematerialised FSDP network
on v5e 4x4, and the programs compared.
"""

import contextlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_MIB = 1 << 20


class Flag(NamedTuple):
    """One flag of the compiler: name without dashes, value, reason for it."""

    name: str
    value: str
    reason: str


FLAGS: dict[str, tuple[Flag, ...]] = {
    # Nothing left to set: the latency-hiding scheduler, async collectives and
    # async collective fusion (13 fused steps of the weights' gathers in that
    # network's layer loop; none where it is off) are libtpu's defaults, and
    # asking for them, or for xla_tpu_overlap_compute_collective_tc or
    # xla_enable_async_all_gather, gave the same program to the letter (on v6e
    # 4x4 too; xla_tpu_enable_data_parallel_all_reduce_opt also on two slices).
    # xla_tpu_all_gather_collective_matmul_mode=post_spmd gives another one
    # (gathers cut into permutes inside matmuls), which only a chip can judge.
    "tpu": (),
    "gpu": (
        Flag(
            "xla_gpu_enable_latency_hiding_scheduler",
            "true",
            "gathers of the next layer's weights start before this layer's "
            "matmuls end; off by default",
        ),
        Flag(
            "xla_gpu_enable_pipelined_all_gather",
            "true",
            "moves a loop's gathers into the iteration before (FSDP)",
        ),
        Flag(
            "xla_gpu_enable_pipelined_reduce_scatter",
            "true",
            "moves a loop's gradient reductions into the one after (FSDP)",
        ),
        Flag(
            "xla_gpu_enable_while_loop_double_buffering",
            "true",
            "two layers an iteration, so that a gathered weight need not be "
            "copied to where the next iteration wants it",
        ),
        Flag(
            "xla_gpu_all_gather_combine_threshold_bytes",
            str(128 * _MIB),
            "a layer's gathers in one message: each by itself is bound by "
            "latency",
        ),
        Flag(
            "xla_gpu_reduce_scatter_combine_threshold_bytes",
            str(128 * _MIB),
            "the same for its gradients",
        ),
    ),
    # Its defaults are what the tests and benchmarks here run with.
    "cpu": (),
}
# What reads the flags, and its version: each that is there must be that.
_CHECKED = {
    "gpu": (("jaxlib", "jax-cuda12-pjrt", "jax-cuda13-pjrt"), "0.10.2"),
    "tpu": (("libtpu",), "0.0.42"),
}
_CUDA = ("jax_cuda12_plugin", "jax_cuda13_plugin")
_VARIABLES = {"tpu": "LIBTPU_INIT_ARGS", "gpu": "XLA_FLAGS", "cpu": "XLA_FLAGS"}


def guess_backend() -> str:
    """Backend that JAX will find, tpu, gpu or cpu, without importing it."""
    wanted = os.environ.get("JAX_PLATFORMS", "").split(",")[0].lower()
    cuda = any(map(_installed, _CUDA))
    if wanted:
        return "gpu" if wanted in ("cuda", "gpu") and cuda else wanted
    if _installed("libtpu") and _may_have_tpu():
        return "tpu"
    return "gpu" if cuda and Path("/dev/nvidiactl").exists() else "cpu"


def leave_idle_tpu() -> bool:
    """Sets JAX_PLATFORMS=cpu where libtpu is installed, as for ahead-of-time
    compilation, without a TPU or another plug-in: libtpu would look for one,
    and print warnings.

    Returns:
      True if it was set.
    """
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    wanted = os.environ.get("JAX_PLATFORMS")
    if wanted or plugins or not _installed("libtpu") or _may_have_tpu():
        return False
    os.environ["JAX_PLATFORMS"] = "cpu"
    return True


def _may_have_tpu() -> bool:
    """Returns True for TPU device files or a PCI device of Google (some are
    no TPU)."""
    if any(Path("/dev").glob("accel[0-9]*")) or Path("/dev/vfio/0").exists():
        return True
    for vendor in Path("/sys/bus/pci/devices").glob("*/vendor"):
        with contextlib.suppress(OSError):
            if vendor.read_text().strip() == "0x1ae0":
                return True
    return False


def flags_for(backend: str) -> Sequence[Flag]:
    """The flags of a backend; none for versions that were not checked."""
    packages, version = _CHECKED.get(backend, ((), ""))
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            if not importlib.metadata.version(package).startswith(version):
                return ()
    return FLAGS.get(backend, ())


def apply(backend: str | None = None) -> Sequence[Flag]:
    """Sets the environment variable; flags that it already has win.

    Returns:
      the flags that were added; none once JAX is imported.
    """
    if "jax" in sys.modules:
        return ()
    backend = backend or guess_backend()
    variable = _VARIABLES.get(backend, "XLA_FLAGS")
    given = os.environ.get(variable, "")
    names = {text.lstrip("-").partition("=")[0] for text in given.split()}
    added = [flag for flag in flags_for(backend) if flag.name not in names]
    if added:
        texts = [f"--{flag.name}={flag.value}" for flag in added]
        os.environ[variable] = " ".join([given, *texts]).strip()
    return added


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
