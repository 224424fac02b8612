"""What `--auto` would ask the compiler about."""

from __future__ import annotations

import dataclasses

import pytest

from i2i_prior.aot.estimate.candidates import (
    HEADROOM,
    KEPT,
    Candidate,
    Workload,
    best,
    candidates,
    memory,
    seconds,
)
from i2i_prior.aot.topologies import parse_topology

# Lumos XL/2 at 256 pixels; FLOPs of 3 and 4 forward passes.
XL = Workload(
    batch=2048,
    depth=28,
    width=1152,
    tokens=256,
    heads=16,
    trained=747_000_000,
    frozen=170_000_000,
    stacked=740_000_000,
    state_bytes=16,
    value_bytes=2,
    image_values=256 * 256 * 128,
    flops={"none": 1.5e15, "full": 2.0e15},
)
POD = parse_topology("v5e:16x16")


def test_candidates_divide_what_they_cut():
    every = list(candidates(XL, POD))
    assert len(set(every)) == len(every)
    assert Candidate(16, 16, 1, 1, "full", 1) in every
    for choice in every:
        replica, fsdp, context, tensor = choice.mesh
        assert replica * fsdp * context * tensor == 256
        assert XL.width % (fsdp * context * tensor) == 0
        assert XL.heads % tensor == 0
        assert choice.micro_batch(XL) == int(choice.micro_batch(XL)) >= 1


def test_slices_are_copies():
    two = parse_topology("v5p:4x4x4*2")
    assert all(c.replica % 2 == 0 for c in candidates(XL, two))


def test_gpu_hosts_keep_tensor_shards_inside():
    hosts = parse_topology("h100x16")
    assert all(c.tensor * c.context <= 8 for c in candidates(XL, hosts))


def test_memory_falls_with_every_cut():
    base = Candidate(16, 16, 1, 1, "none", 1)
    for changed in (
        dataclasses.replace(base, remat="full"),
        dataclasses.replace(base, accumulate=8),
        dataclasses.replace(base, replica=8, tensor=2, accumulate=2),
    ):
        assert memory(XL, changed) < memory(XL, base)
    assert set(XL.flops) <= set(KEPT)


def test_recomputing_costs_time():
    flops = {policy: 8 * count for policy, count in XL.flops.items()}
    large = dataclasses.replace(XL, batch=8 * XL.batch, flops=flops)
    base = Candidate(16, 16, 1, 1, "none", 1)
    full = dataclasses.replace(base, remat="full")
    assert seconds(large, full, POD) > 1.2 * seconds(large, base, POD)


@pytest.mark.parametrize("topology", ["v5e:16x16", "v5p:8x8x4", "h100x8"])
def test_the_best_fit_and_come_first(topology):
    machine = parse_topology(topology)
    chosen = best(XL, machine, 5)
    assert len(chosen) == 5
    times = [seconds(XL, c, machine) for c in chosen]
    assert times == pytest.approx(sorted(times), abs=1e-4)
    for choice in chosen:
        limit = HEADROOM * machine.chip.usable_memory
        assert memory(XL, choice) <= limit
        assert sum(c.mesh == choice.mesh for c in chosen) <= 2


def test_where_nothing_fits_the_smallest_are_tried():
    huge = dataclasses.replace(XL, trained=10**13, stacked=10**13)
    chosen = best(huge, POD, 3)
    assert chosen
    least = min(memory(huge, c) for c in candidates(huge, POD))
    assert memory(huge, chosen[0]) == least
