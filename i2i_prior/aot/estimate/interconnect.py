"""Time of collectives on a machine's links.

Ring algorithms along every physical axis at once, as in "How to scale your
model" (jax-ml.github.io/scaling-book/sharding): an axis that closes to a ring
is used in both directions, one that does not at half the rate. Groups over
several slices (or GPU hosts) work inside each first, then every chip sends its
share over the slow network.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from i2i_prior.aot.estimate.collectives import Collective
from i2i_prior.aot.topologies import Topology

HOP_SECONDS = 1e-6  # one ICI hop: the same book, section on small arrays


def collective_seconds(
    collective: Collective, topology: Topology, places: np.ndarray
) -> float:
    """Seconds of one execution.

    Args:
      collective: of a program.
      topology: the machine.
      places: int (chips, 1 + axes), see `topologies.coordinates`, in the
        order of the flattened mesh.
    """
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
