"""Indices of folders and archives are kept for one test only."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def index_folder(tmp_path_factory, monkeypatch):
    """Folder of this test's indices."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache / "i2i_prior" / "index"
