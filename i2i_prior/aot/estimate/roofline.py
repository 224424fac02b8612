"""Roofline estimate of a step's time, and its assumptions.

Collectives are timed as ring algorithms along every physical axis at once, as
in "How to scale your model" (jax-ml.github.io/scaling-book/sharding): an axis
that closes to a ring is used in both directions, one that does not at half the
rate. Groups over several slices (or GPU hosts) work inside each first, then
every chip sends its share over the slow network.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from i2i_prior.aot.estimate.collectives import LAYERS, Collective
from i2i_prior.aot.estimate.hbm_traffic import Traffic
from i2i_prior.aot.topologies import Topology

HOP_SECONDS = 1e-6  # one ICI hop: the same book, section on small arrays
# Share of the peak that a layer's bf16 matmuls reach: assumptions of ours, to
# be replaced by what a run measures. An H100 at its 700 W limit slows its
# clock under dense matmuls, a TPU does not.
ATTAINABLE = {"tpu": 0.85, "cuda": 0.70}


@dataclass(frozen=True)
class Roofline:
    """Seconds of one step on one chip."""

    compute: float  # matrix products, at the attainable share of the peak
    overlapped_memory: float  # HBM traffic of the same instructions, under them
    exposed_memory: float  # HBM traffic of all others, which nothing hides
    links: dict[tuple[str, str], float]  # of the collectives, by (where, axes)

    @property
    def core(self) -> float:
        """Seconds without collectives."""
        return max(self.compute, self.overlapped_memory) + self.exposed_memory

    @property
    def hidden(self) -> float:
        """Seconds of the layer loop's kernels and gradients: those of a layer
        travel while another is computed."""
        return sum(s for key, s in self.links.items() if _overlaps(*key))

    @property
    def exposed(self) -> float:
        """Seconds of all other collectives, which nothing overlaps."""
        return sum(s for key, s in self.links.items() if not _overlaps(*key))

    @property
    def seconds(self) -> float:
        """Estimated seconds of the step."""
        return max(self.core, self.hidden) + self.exposed

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "compute_seconds": self.compute,
            "overlapped_memory_seconds": self.overlapped_memory,
            "exposed_memory_seconds": self.exposed_memory,
            "hidden_link_seconds": self.hidden,
            "exposed_link_seconds": self.exposed,
            "links": [
                {
                    "where": where,
                    "axes": axes,
                    "seconds": self.links[where, axes],
                }
                for where, axes in sorted(
                    self.links, key=lambda k: -self.links[k]
                )
            ],
        }


def _overlaps(where: str, axes: str) -> bool:
    """Returns True for parameters, which are sharded over fsdp and over other
    axes with it; collectives over context or tensor alone are of activations
    that the next product needs."""
    return where == LAYERS and bool({"replica", "fsdp"} & set(axes.split("+")))


def padding(topology: Topology, width: int) -> float:
    """Ratio of a width as the matrix unit pads it to the width."""
    unit = topology.chip.unit
    return math.ceil(width / unit) * unit / width


def widths(config: ConfigDict) -> tuple[int, int]:
    """Width of the model and of a head."""
    return config.model.width, config.model.width // config.model.heads


def estimate(
    topology: Topology,
    executed_flops: float,
    traffic: Traffic,
    collectives: list[Collective],
    places: np.ndarray,
) -> Roofline:
    """The roofline of one step.

    `executed_flops` are of all chips, recomputation of remat included, and
    `traffic` of one; `places` as in `collective_seconds`.
    """
    chip = topology.chip
    attainable = chip.flops * ATTAINABLE[chip.platform]
    return Roofline(
        executed_flops / topology.chips / attainable,
        traffic.beside / chip.memory_bandwidth,
        traffic.alone / chip.memory_bandwidth,
        by_axes(collectives, topology, places),
    )


def assumptions(topology: Topology, width: int, head_width: int) -> list[str]:
    """Assumptions of the estimate, one sentence each."""
    chip = topology.chip
    lines = [
        f"{chip.name}: {chip.flops / 1e12:.0f} TFLOP/s dense bf16 peak, of "
        f"which matmuls reach {ATTAINABLE[chip.platform]:.0%}; "
        f"{chip.memory_bandwidth / 1e9:.0f} GB/s HBM; "
        f"{chip.usable_memory / 2**30:.2f} GiB of HBM for a program",
        f"FLOPs are counted analytically; matrix units of side {chip.unit} "
        f"pad {width} channels {padding(topology, width):.2f}x, and heads of "
        f"{head_width} {padding(topology, head_width):.2f}x",
        "HBM traffic is read off the compiled program; what holds no matrix "
        "product runs by itself, at full HBM bandwidth",
        "collectives of the layer loop over fsdp or replica carry parameters "
        "and gradients and run beside the chip's work (max of both); those "
        "over context and tensor alone, and outside the loop, are waited for",
    ]
    if chip.axes:
        closed = ["ring" if wrap else "line" for wrap in topology.wraps]
        lines.append(
            f"ICI: {chip.link_bandwidth / 1e9:.0f} GB/s a link and direction, "
            f"{HOP_SECONDS * 1e6:.0f} us a hop, all axes of a group at once; "
            f"axes {' x '.join(map(str, topology.shape))} are "
            f"{', '.join(closed)}"
        )
    else:
        lines.append(
            f"NVLink: {chip.link_bandwidth / 1e9:.0f} GB/s a GPU and direction"
        )
    if topology.slices > 1:
        lines.append(
            f"{topology.slices} slices or hosts, "
            f"{chip.slow_bandwidth / 1e9:.2f} GB/s a chip and direction "
            "between them"
        )
    lines.append("waiting for data and stragglers are left out")
    return lines


def collective_seconds(
    collective: Collective, topology: Topology, places: np.ndarray
) -> float:
    """Seconds of one execution. `places`, int (chips, 1 + axes), are in the
    order of the flattened mesh, see `topologies.coordinates`."""
    members = places[list(collective.members)]
    slices = len(np.unique(members[:, 0]))
    inside = len(members) // slices
    slow = 0.0
    if slices > 1:
        sent = _crossing(collective, slices, inside)
        slow = sent / topology.chip.slow_bandwidth
    if inside == 1:
        return slow
    spans = [len(np.unique(axis)) for axis in members[:, 1:].T]
    return slow + _fast_seconds(collective, topology, spans, inside)


def _crossing(collective: Collective, slices: int, inside: int) -> float:
    """Bytes that each chip sends to other slices."""
    size, share = collective.bytes, (slices - 1) / slices
    return {
        "collective-permute": size,
        "all-reduce": 2 * size * share / inside,
        "reduce-scatter": size * slices * share,
        "all-to-all": size * share,
    }.get(collective.kind, size * share / inside)


def _fast_seconds(
    collective: Collective, topology: Topology, spans: list[int], inside: int
) -> float:
    chip, size = topology.chip, collective.bytes
    share = (inside - 1) / inside
    sent = {
        "all-reduce": 2 * size * share,
        "reduce-scatter": size * (inside - 1),
        "collective-permute": size,
    }.get(collective.kind, size * share)
    if not chip.axes:
        return sent / chip.link_bandwidth
    bandwidth, hops = 0.0, 0
    for span, side, closed in zip(
        spans, topology.shape, topology.wraps, strict=True
    ):
        ring = closed and span == side
        if span > 1:
            bandwidth += chip.link_bandwidth * (2 if ring else 1)
            hops += span // 2 if ring else span - 1
    if collective.kind == "collective-permute":
        bandwidth = chip.link_bandwidth
    elif collective.kind == "all-to-all":
        # Each piece travels a quarter of the ring on average, and both
        # directions are used: size x longest axis / 4.
        sent = size * max(spans) / 4
    return sent / bandwidth + hops * HOP_SECONDS


def by_axes(
    collectives: list[Collective], topology: Topology, places: np.ndarray
) -> dict[tuple[str, str], float]:
    """(where, "fsdp+replica") -> seconds a step, one collective at a time."""
    total: dict[tuple[str, str], float] = defaultdict(float)
    memo: dict[tuple, float] = {}
    for c in collectives:
        key = (c.kind, c.bytes, c.members)
        if key not in memo:
            memo[key] = collective_seconds(c, topology, places)
        total[c.where, "+".join(c.axes) or "none"] += memo[key] * c.count
    return dict(total)
