"""Names of machines against what XLA's TPU compiler knows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from i2i_prior.aot.child import environment
from i2i_prior.aot.topologies import check_compiler, parse_topology
from i2i_prior.errors import UserError

NAMES = (
    "v4:2x2x1",
    "v4:4x4x4",
    "v5e:1x1",
    "v5e:2x4",
    "v5e:16x16",
    "v5p:2x2x2",
    "v5p:2x4x4",
    "v5p:8x8x4*2",
    "v6e:1x1",
    "v6e:8x16",
)
SCRIPT = """
import json, sys
import numpy as np
from i2i_prior.parallel.mesh import make_mesh
from i2i_prior.aot.topologies import (
    coordinates, find_devices, parse_topology
)
found = {}
for name in sys.argv[1:]:
    topology = parse_topology(name)
    devices = find_devices(topology)
    places = coordinates(topology, np.array(devices))
    mesh = make_mesh(replica=topology.slices, devices=devices).devices
    found[name] = {
        "kinds": sorted({device.device_kind for device in devices}),
        "places": places.tolist(),
        "slices": coordinates(topology, mesh)[..., 0].reshape(
            topology.slices, -1
        ).tolist(),
    }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict:
    """What libtpu makes of the names, in a process of its own."""
    machine = parse_topology(NAMES[0])
    try:
        check_compiler(machine)
    except UserError as error:
        pytest.skip(str(error))
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, *NAMES],
        env=environment(machine),
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_every_chip_is_one_device(found, name):
    topology = parse_topology(name)
    assert found[name]["kinds"] == [topology.chip.kind]
    places = {tuple(place) for place in found[name]["places"]}
    assert len(places) == len(found[name]["places"]) == topology.chips
    largest = tuple(max(axis) + 1 for axis in zip(*places, strict=True))
    assert largest == (topology.slices, *topology.shape)


def test_replicas_are_slices(found):
    """Slow links lie between the first axis' shards and nowhere else."""
    slices = found["v5p:8x8x4*2"]["slices"]
    assert [set(row) for row in slices] == [{0}, {1}]
