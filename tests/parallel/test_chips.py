"""One table of chips, and the names machines go by."""

from __future__ import annotations

import pytest

from i2i_prior.aot.topologies import parse_topology
from i2i_prior.errors import UserError
from i2i_prior.parallel.chips import CHIPS
from i2i_prior.training.telemetry.goodput import peak_flops


def test_the_peak_of_a_run_is_the_tables():
    for chip in CHIPS.values():
        assert peak_flops(chip.kind) == chip.flops
        assert peak_flops(f"NVIDIA {chip.kind} 80GB") == chip.flops
    assert peak_flops("TPU v5 lite") == 197e12  # not a v5p
    assert peak_flops("cpu") is None


@pytest.mark.parametrize(
    ("text", "shape", "slices", "chips"),
    [
        ("v5e:4x4", (4, 4), 1, 16),
        ("v5e:1x1", (1, 1), 1, 1),
        ("v6e:16x16", (16, 16), 1, 256),
        ("v5p:8x8x4", (8, 8, 4), 1, 256),
        ("v5p:2x2x1", (2, 2, 1), 1, 4),
        ("v4:4x4x4*2", (4, 4, 4), 2, 128),
        ("h100x4", (4,), 1, 4),
        ("h100x64", (8,), 8, 64),
        ("h200x8", (8,), 1, 8),
    ],
)
def test_names(text, shape, slices, chips):
    topology = parse_topology(text)
    assert topology.shape == shape
    assert (topology.slices, topology.chips) == (slices, chips)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("v7:4x4", "chips are v4, v5e"),
        ("v5e", "written as"),
        ("h100:8", "written as"),
        ("v5e:3x3", "two sides of 2, 4, 8 or 16"),
        ("v5e:4x4x4", "two sides"),
        ("v5e:16x32", "two sides"),
        ("v5p:4x4", "three multiples of 4"),
        ("v5p:3x4x4", "three multiples of 4"),
        ("v5p:1x2x2", "three multiples of 4"),
        ("v4:32x32x32", "at most 4096 chips"),
        ("v5e:4x4*0", "at least one slice"),
        ("h100x0", "hosts have 8 GPUs"),
        ("h100x12", "hosts have 8 GPUs"),
    ],
)
def test_names_of_nothing(text, said):
    with pytest.raises(UserError, match=said):
        parse_topology(text)


@pytest.mark.parametrize(
    ("text", "wraps"),
    [
        ("v5e:4x4", (False, False)),
        ("v5e:8x16", (False, True)),
        ("v5e:16x16", (True, True)),
        ("v5p:8x8x4", (True, True, True)),
        ("v5p:2x4x4", (False, False, False)),
        ("h100x8", (False,)),
    ],
)
def test_rings(text, wraps):
    assert parse_topology(text).wraps == wraps
