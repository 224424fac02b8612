"""`i2i-prior doctor`: reports what this machine has and could train."""

import argparse
import os
import shutil
import timeit

EXAMPLE = "i2i-prior doctor"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds no options."""


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Prints versions, devices, memory and disk; runs one real matmul. Returns
    0 if a training step can run here, else 1."""
    from i2i_prior.training.metadata import versions

    for name, version in versions().items():
        print(f"{name:18} {version}")
    _print_compiler()
    import jax

    from i2i_prior.training.telemetry.goodput import peak_flops

    try:
        devices = jax.devices()
    except RuntimeError as error:
        print(f"no device: {error}")
        return 1
    kind = devices[0].device_kind
    peak = peak_flops(kind)
    print(f"\n{'devices':18} {len(devices)} x {kind} ({devices[0].platform})")
    print(f"{'bf16 peak':18} " + (f"{peak:.3g} FLOP/s" if peak else "unknown"))
    rates = {dtype: _matmul_rate(dtype) for dtype in ("float32", "bfloat16")}
    for dtype, rate in rates.items():
        print(f"{dtype + ' matmul':18} {rate:.3g} FLOP/s measured")
    print(f"{'cores':18} {len(os.sched_getaffinity(0))}")
    disk = shutil.disk_usage(".").free
    print(f"{'memory':18} {_memory() / 2**30:.1f} GiB available")
    print(f"{'disk here':18} {disk / 2**30:.1f} GiB free")
    print(f"{'built-in photos':18} {_photos()}")
    _print_forecast(max(rates.values()) * len(devices))
    return 0


def _print_compiler() -> None:
    """Prints the flags and the cache that `i2i-prior train` would use."""
    from i2i_prior.parallel.xla_flags import flags_for, guess_backend
    from i2i_prior.training.resilience.compile_cache import cache_directory

    backend = guess_backend()
    print(f"\n{'XLA flags':18} of {backend}:", end=" ")
    print("the defaults" if not flags_for(backend) else "")
    for flag in flags_for(backend):
        print(f"  --{flag.name}={flag.value}\n      {flag.reason}")
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    print(f"{'compile cache':18} {given or cache_directory()}")


def _matmul_rate(dtype: str, size: int = 1024) -> float:
    """Measured FLOP/s of a square product."""
    import jax
    import jax.numpy as jnp

    a = jnp.ones((size, size), dtype)
    product = jax.jit(
        lambda x, y: jnp.matmul(x, y, preferred_element_type=jnp.float32)
    )
    product(a, a).block_until_ready()
    seconds = timeit.repeat(lambda: product(a, a).block_until_ready(), number=1)
    return 2 * size**3 / min(seconds)


def _memory() -> int:
    """Available memory, bytes; 0 if unknown."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0


def _photos() -> str:
    from i2i_prior.data.sources.registry import open_source
    from i2i_prior.errors import UserError

    try:
        return f"{len(open_source('builtin:photos'))} found"
    except UserError as error:
        return str(error)


def _print_forecast(rate: float) -> None:
    """Prints examples/s of two models, at half the measured matmul rate."""
    from i2i_prior.config import default_config
    from i2i_prior.flops.cost import step_flops
    from i2i_prior.models.presets import preset

    print()
    for name, size in (("modern_s2", 32), ("lumos_xl2", 32)):
        config = default_config()
        config.model.update(preset(name))
        config.data.image_size = size
        config.data.batch_size = 1
        seconds = step_flops(config).model / (0.5 * rate)
        print(
            f"{name:18} about {1 / seconds:.3g} training examples/s "
            f"({size} x {size} latents) at half the matmul rate"
        )
