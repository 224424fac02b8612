"""The estimate against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from i2i_prior.aot.estimate.collectives import LAYERS, OUTSIDE, Collective
from i2i_prior.aot.estimate.hbm_traffic import Traffic
from i2i_prior.aot.estimate.roofline import (
    ATTAINABLE,
    HOP_SECONDS,
    assumptions,
    collective_seconds,
    estimate,
    padding,
)
from i2i_prior.aot.topologies import parse_topology

POD = parse_topology("v5e:16x16")
MIB = 2**20


def places(topology) -> np.ndarray:
    """Chips in the order of their coordinates, slices outermost."""
    grid = np.indices((topology.slices, *topology.shape))
    return grid.reshape(len(grid), -1).T


def collective(kind, members, size=64 * MIB, axes=("fsdp",), where=LAYERS):
    return Collective(kind, where, size, 1, tuple(members), axes, ())


def seconds(topology, *arguments, **options):
    return collective_seconds(
        collective(*arguments, **options), topology, places(topology)
    )


def test_one_ring_both_ways():
    """15/16 of the result over two links of 50 GB/s, 8 hops away."""
    wanted = 64 * MIB * 15 / 16 / 100e9 + 8 * HOP_SECONDS
    assert seconds(POD, "all-gather", range(16)) == pytest.approx(wanted)
    # A column of the torus is as good as a row.
    column = range(0, 256, 16)
    assert seconds(POD, "all-gather", column) == pytest.approx(wanted)


def test_a_sum_is_twice_a_gather_and_both_axes_twice_as_fast():
    gather = seconds(POD, "all-gather", range(256))
    wanted = 64 * MIB * 255 / 256 / 200e9 + 16 * HOP_SECONDS
    assert gather == pytest.approx(wanted)
    total = seconds(POD, "all-reduce", range(256)) - 16 * HOP_SECONDS
    assert total == pytest.approx(2 * (gather - 16 * HOP_SECONDS))


def test_half_a_ring_is_a_line():
    """Half the links, and as many hops as neighbours."""
    wanted = 64 * MIB * 7 / 8 / 50e9 + 7 * HOP_SECONDS
    assert seconds(POD, "all-gather", range(8)) == pytest.approx(wanted)
    small = parse_topology("v5e:4x4")
    wanted = 64 * MIB * 3 / 4 / 50e9 + 3 * HOP_SECONDS
    assert seconds(small, "all-gather", range(4)) == pytest.approx(wanted)


def test_a_scatter_is_given_by_its_result():
    gather = seconds(POD, "all-gather", range(16), size=16 * MIB)
    scatter = seconds(POD, "reduce-scatter", range(16), size=MIB)
    assert scatter == pytest.approx(gather)


def test_neighbours_and_everyone_to_everyone():
    step = seconds(POD, "collective-permute", (0, 1))
    assert step == pytest.approx(64 * MIB / 50e9 + HOP_SECONDS)
    # A chip's share travels a quarter of the ring of 16 on average.
    everyone = seconds(POD, "all-to-all", range(16))
    assert everyone == pytest.approx(
        64 * MIB * 16 / 4 / 100e9 + 8 * HOP_SECONDS
    )


def test_two_slices_share_the_slow_links():
    two = parse_topology("v5p:4x4x4*2")
    one = parse_topology("v5p:4x4x4")
    inside = seconds(one, "all-reduce", range(64))
    both = seconds(two, "all-reduce", range(128))
    # Each of 64 chips sums 1 MiB with its peer: 2 x 1/2 x 1 MiB.
    assert both - inside == pytest.approx(MIB / 6.25e9)
    pair = seconds(two, "all-reduce", (0, 64))
    assert pair == pytest.approx(64 * MIB / 6.25e9)


def test_gpus():
    hosts = parse_topology("h100x16")
    wanted = 64 * MIB * 7 / 8 / 450e9
    assert seconds(hosts, "all-gather", range(8)) == pytest.approx(wanted)
    across = seconds(hosts, "all-gather", range(16))
    assert across == pytest.approx(wanted + 64 * MIB / 2 / 8 / 50e9)


def test_what_runs_beside_what():
    """Compute 100 ms; kernels hide behind it, activations and what lies
    outside the layer loop do not."""
    peak = POD.chip.flops * ATTAINABLE["tpu"] * POD.chips
    kernels = collective("all-gather", range(16))
    stream = collective("all-gather", range(16), axes=("tensor",))
    last = collective("all-gather", range(16), where=OUTSIDE)
    each = seconds(POD, "all-gather", range(16))

    def step(*collectives):
        line = estimate(
            POD, 0.1 * peak, Traffic(0, 81e6), [*collectives], places(POD)
        )
        return line.seconds

    alone = 0.1 + 81e6 / 8.1e11
    assert step() == pytest.approx(alone)
    assert step(kernels) == pytest.approx(alone)
    assert step(kernels, stream) == pytest.approx(alone + each)
    assert step(kernels, stream, last) == pytest.approx(alone + 2 * each)
    many = [kernels] * 1000
    assert step(*many, last) == pytest.approx(1001 * each)


def test_narrow_operands_leave_matrix_units_idle():
    assert padding(POD, 72) == pytest.approx(128 / 72)
    assert padding(POD, 1152) == 1
    assert padding(parse_topology("v6e:4x4"), 1152) == pytest.approx(10 / 9)
    assert padding(parse_topology("h100x8"), 72) == 1


def test_assumptions_are_said():
    text = "\n".join(assumptions(parse_topology("v5p:8x8x4*2"), 1152, 72))
    for figure in (
        "459 TFLOP/s",
        "2765 GB/s",
        "95.74 GiB",
        "2 slices",
        "1.78x",
    ):
        assert figure in text
