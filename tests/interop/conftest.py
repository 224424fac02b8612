"""Shared by the tests of files of others."""

from __future__ import annotations

import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.interop.files.state_dicts import read_state_dict


@pytest.fixture
def refused(tmp_path):
    """Function (name, content) -> error of a file that must be refused."""

    def run(name: str, content: bytes | None = None) -> str:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        before = sorted(tmp_path.rglob("*"))
        tracemalloc.start()
        try:
            with pytest.raises(UserError) as told:
                read_state_dict(path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        said = str(told.value)
        assert sorted(tmp_path.rglob("*")) == before
        assert peak < 8e6 + 4 * len(content or b""), "believed a claim"
        assert "\n" not in said
        assert len(said.replace(str(tmp_path), "")) < 400
        assert str(tmp_path) in said
        return said

    return run


@pytest.fixture(scope="session")
def small():
    """Arrays by name, of every dtype that safetensors and NumPy share."""
    generator = np.random.default_rng(0)
    return {
        name: generator.standard_normal(shape).astype(dtype)
        for name, shape, dtype in (
            ("b", (3,), np.float16),
            ("a", (4, 3), np.float32),
            ("scalar", (), np.float32),
            ("brain", (2, 5), ml_dtypes.bfloat16),
            ("none", (0, 2), np.float32),
            ("wide", (3,), np.float64),
        )
    } | {"flags": np.array([True, False, True]), "count": np.arange(3)}


@pytest.fixture(scope="session")
def pairs(tiny, tmp_path_factory):
    """Priors by name: (JAX prior, torch prior, folder)."""
    from tests.interop.fixtures_torch_folder import RUNS, exported

    root = tmp_path_factory.mktemp("folders")
    return {
        name: (*exported(tiny(*overrides), root / name), root / name)
        for name, overrides in RUNS.items()
    }
