"""Compiler flags: those that exist, for what they were checked with."""

from __future__ import annotations

import importlib.metadata
import os
import sys

import jax  # noqa: F401 - it is imported, says one test
import pytest

from i2i_prior.parallel import xla_flags


@pytest.fixture
def unimported(monkeypatch):
    """As before JAX is imported, without flags in the environment."""
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)


# XLA stops the process over a flag that it does not know.
PARSED = """
import os
from i2i_prior.parallel import xla_flags
del os.environ["XLA_FLAGS"]
assert len(xla_flags.apply("gpu")) == len(xla_flags.FLAGS["gpu"]) > 3
assert os.environ["XLA_FLAGS"].count("--xla_gpu_") > 3
import jax
print(jax.jit(lambda x: x + 1)(1))
"""


def test_the_gpu_flags_exist(python, tmp_path):
    if not importlib.metadata.version("jaxlib").startswith("0.10.2"):
        pytest.skip("checked with jaxlib 0.10.2")
    script = tmp_path / "parsed.py"
    script.write_text(PARSED)
    process = python(script)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out == "2\n"


def test_another_version_gets_no_flags(monkeypatch):
    assert xla_flags.flags_for("gpu")
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.11.0")
    assert xla_flags.flags_for("gpu") == ()


@pytest.mark.usefixtures("unimported")
def test_what_the_user_sets_wins(monkeypatch):
    name = xla_flags.FLAGS["gpu"][0].name
    monkeypatch.setenv("XLA_FLAGS", f"--{name}=false --xla_other=1")
    added = xla_flags.apply("gpu")
    assert len(added) == len(xla_flags.FLAGS["gpu"]) - 1
    found = os.environ["XLA_FLAGS"].split()
    assert found[:2] == [f"--{name}=false", "--xla_other=1"]
    assert not any(text.startswith(f"--{name}=true") for text in found)
    # A second time there is nothing left to add.
    assert list(xla_flags.apply("gpu")) == []


def test_nothing_is_set_once_jax_is_imported(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    assert "jax" in sys.modules
    assert xla_flags.apply("gpu") == ()
    assert os.environ["XLA_FLAGS"] == ""


@pytest.mark.parametrize(
    ("platforms", "wanted"),
    [("cpu", "cpu"), ("tpu,cpu", "tpu"), ("rocm", "rocm"), ("CPU", "cpu")],
)
def test_the_backend_that_is_asked_for(monkeypatch, platforms, wanted):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    assert xla_flags.guess_backend() == wanted


def test_every_flag_has_a_reason():
    for flags in xla_flags.FLAGS.values():
        for flag in flags:
            assert flag.reason
            assert not flag.name.startswith("-")


@pytest.mark.parametrize(
    ("given", "plugins", "chips", "wanted"),
    [
        ("", (), False, "cpu"),
        ("", (), True, ""),
        ("", ("cuda12",), False, ""),
        ("tpu,cpu", (), False, "tpu,cpu"),
    ],
)
def test_libtpu_without_a_tpu_is_left_alone(
    monkeypatch, given, plugins, chips, wanted
):
    monkeypatch.setenv("JAX_PLATFORMS", given)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: plugins)
    monkeypatch.setattr(xla_flags, "_may_have_tpu", lambda: chips)
    monkeypatch.setattr(xla_flags, "_installed", lambda _: True)
    assert xla_flags.leave_idle_tpu() == (wanted == "cpu")
    assert os.environ["JAX_PLATFORMS"] == wanted
