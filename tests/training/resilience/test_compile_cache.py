"""Compilation cache: its folder, and runs without it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from i2i_prior.training.resilience import compile_cache
from i2i_prior.training.resilience.compile_cache import (
    cache_directory,
    use_cache,
)


@pytest.fixture
def unset(monkeypatch):
    """No choice in the environment; what `use_cache` sets goes away."""
    for name in ("DIR", "MIN_COMPILE_TIME_SECS"):
        prefix = "COMPILATION" if name == "DIR" else "PERSISTENT"
        monkeypatch.setenv(f"JAX_{prefix}_CACHE_{name}", "")
        del os.environ[f"JAX_{prefix}_CACHE_{name}"]


@pytest.mark.usefixtures("unset")
def test_the_users_cache_is_the_default(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = use_cache()
    assert place == cache_directory()
    assert place.parent == tmp_path / "i2i_prior" / "xla"
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(place)
    assert list(place.iterdir()) == []


def test_jax_own_variable_wins(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    assert use_cache() is None
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "elsewhere"


@pytest.mark.usefixtures("unset")
def test_a_place_that_cannot_be_written_is_no_error(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert use_cache() is None
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
    # A processor without /proc/cpuinfo, and a user without a home.
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", _no_home)
    assert use_cache() is None
    monkeypatch.setattr(compile_cache.Path, "read_text", _no_file)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert use_cache() is not None


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def _no_file(_: Path) -> str:
    raise FileNotFoundError
