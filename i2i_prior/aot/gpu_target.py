"""Description of a GPU for XLA, to compile for one that is not here."""

from __future__ import annotations

from i2i_prior.parallel.chips import Chip

CUDNN = (9, 10, 0)


def assume_cudnn() -> None:
    """Replaces JAX's check of cuDNN, which this machine need not have.

    JAX asks this process' own cuDNN for its version when it traces fused
    attention; the compiler itself only reads `target_config`.
    """
    from jax._src.cudnn import fused_attention_stablehlo

    major, minor, patch = CUDNN
    version = 10_000 * major + 100 * minor + patch
    fused_attention_stablehlo.check_cudnn_version = lambda: version


def target_config(chip: Chip) -> str:
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
