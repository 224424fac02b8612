"""Sweeps to launch, and backends over them."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from i2i_prior.sweeps.backends import Backend, load_backend
from i2i_prior.sweeps.run.store import Sweep, save_sweep
from tests.launch.fixtures_sweeps import StandIn, planned


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    """Two runs, one of them of a name that no engine takes."""
    runs = [planned("w32-1e9-0a1b2c3d"), planned("W64_1.5e9-deadbeef")]
    made = Sweep(tmp_path / "a sweep", {"name": "Ladder of 2"}, runs)
    save_sweep(made)
    return made


@pytest.fixture
def backend() -> Callable[..., Backend]:
    """backend("gke", image="x"): a launch file with options."""

    def load(name: str, **options: object) -> Backend:
        pairs = ",".join(f"{key}={value}" for key, value in options.items())
        return load_backend(f"{name}:{pairs}" if pairs else name)

    return load


@pytest.fixture
def stand_in(tmp_path, monkeypatch) -> Callable[[str], StandIn]:
    """stand_in("kubectl") comes before all others of that name."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return lambda name: StandIn(folder, name)
