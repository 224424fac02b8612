"""The chips that programs are compiled for, each figure with its source.

TPU: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, the tables of key
specifications and of shapes. There "bidirectional ICI bandwidth per chip"
counts all links in both directions: v5p 1200 GB/s are 6 links of 100 GB/s
each way. `usable_memory` is what XLA's TPU compiler (libtpu 0.0.42) says is
available in its out-of-memory message; the rest is its own reserve.

GPU: NVIDIA's data sheets of H100 SXM and H200 SXM ("with sparsity" halved,
NVLink 900 GB/s in both directions), one 400 Gbit/s InfiniBand port a GPU as
in DGX H100. `usable_memory`: device memory as XLA's own target descriptions
have it.
"""

import functools
from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """Figures of one chip."""

    name: str  # as in a topology, "v5e"
    platform: str  # "tpu" or "cuda"
    kind: str  # what `jax.Device.device_kind` calls it
    flops: float  # dense bf16 peak, FLOP/s
    usable_memory: int  # HBM that a program may fill, bytes
    memory_bandwidth: float  # of HBM, bytes/s
    # One way, bytes/s: of one ICI link (a TPU has two along each axis), or of a
    # GPU's NVLink ports together
    link_bandwidth: float
    # One way and per chip, bytes/s: data-centre network between slices, or
    # InfiniBand between GPU hosts
    slow_bandwidth: float
    axes: int  # physical axes of the torus; 0 for GPUs behind a switch
    host: tuple[int, ...]  # chips of one host along each axis; GPUs of one host
    # An axis of a multiple of this many chips closes to a ring
    wrap_every: int = 0
    largest: int = 0  # chips of the largest slice; 0 for no limit
    # Side of the matrix unit, which narrower operands do not fill; 1 where
    # tiles are small (TPU: 128, from v6e on 256)
    unit: int = 1


_TORUS_2D = functools.partial(
    Chip, platform="tpu", axes=2, host=(2, 2), wrap_every=16, largest=256
)
_TORUS_3D = functools.partial(
    Chip, platform="tpu", axes=3, host=(2, 2, 1), wrap_every=4, unit=128
)
_HOPPER = functools.partial(
    Chip,
    platform="cuda",
    flops=989e12,
    link_bandwidth=450e9,
    slow_bandwidth=50e9,
    axes=0,
    host=(8,),
)
CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        _TORUS_3D(
            name="v4",
            kind="TPU v4",
            flops=275e12,
            usable_memory=int(30.75 * GIB),
            memory_bandwidth=1.2e12,
            link_bandwidth=50e9,
            slow_bandwidth=6.25e9,
            largest=4096,
        ),
        _TORUS_2D(
            name="v5e",
            kind="TPU v5 lite",
            flops=197e12,
            usable_memory=int(15.75 * GIB),
            memory_bandwidth=8.1e11,
            link_bandwidth=50e9,
            slow_bandwidth=3.125e9,
            unit=128,
        ),
        _TORUS_3D(
            name="v5p",
            kind="TPU v5",
            flops=459e12,
            usable_memory=int(95.74 * GIB),
            memory_bandwidth=2.765e12,
            link_bandwidth=100e9,
            slow_bandwidth=6.25e9,
            largest=6144,
        ),
        _TORUS_2D(
            name="v6e",
            kind="TPU v6 lite",
            flops=918e12,
            usable_memory=int(31.25 * GIB),
            memory_bandwidth=1.6e12,
            link_bandwidth=100e9,
            slow_bandwidth=12.5e9,
            unit=256,
        ),
        _HOPPER(
            name="h100",
            kind="H100",
            usable_memory=84_942_979_072,
            memory_bandwidth=3.35e12,
        ),
        _HOPPER(
            name="h200",
            kind="H200",
            usable_memory=151_397_597_184,
            memory_bandwidth=4.8e12,
        ),
    )
}

# Chips that runs are measured on but no program is compiled ahead for, and
# other names of the above. JAX calls v5e "TPU v5 lite", v5p "TPU v5", v6e
# "TPU v6 lite". A100, L4, H100 PCIe: NVIDIA's data sheets.
PEAK_FLOPS: dict[str, float] = {
    **{chip.kind: chip.flops for chip in CHIPS.values()},
    **{f"TPU {name}": CHIPS[name].flops for name in ("v5e", "v5p", "v6e")},
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "L4": 121e12,
}
