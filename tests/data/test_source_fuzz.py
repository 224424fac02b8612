"""Mutated archives in numbers that a test bears; fuzz.py runs more."""

from __future__ import annotations

import os
import sys
import tracemalloc
from pathlib import Path

import pytest

from tests.data import fuzz


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0


def test_mutated_tars_end_in_records_or_one_sentence(tmp_path):
    before = descriptors()
    ended = fuzz.run("tar", 700, tmp_path)
    tracemalloc.start()
    ended += fuzz.run("tar", 300, tmp_path, first=700)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert ended["read"] > 100, ended
    assert ended["UserError"] > 20, ended
    assert descriptors() <= before + 1
    assert peak < 64e6


def test_the_untouched_tar_is_whole(tmp_path):
    (tmp_path / "a.tar").write_bytes(fuzz.a_tar())
    source = fuzz.open_source(f"tar:{tmp_path}/a.tar")
    assert len(source) == 6
    assert source.notes == []


def test_mutated_arrayrecords_do_not_bring_the_process_down(tmp_path, python):
    # C++ reads them: a crash would take the other tests along.
    script = Path(fuzz.__file__)
    child = python(script, "--cases", "300", "--what", "arrayrecord")
    try:
        out, err = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 0, err[-2000:]
    for ending in ("read", "UserError", "OSError"):
        if ending not in out:
            pytest.fail(f"no case ended in {ending}: {out}")
