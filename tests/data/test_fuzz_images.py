"""Damaged images by the thousand; `fuzz_images.py` has a hundred thousand."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.data.fuzz_images import seeds, try_one


def test_a_thousand_damaged_images():
    # A child, so that a crash is this test's and no other's.
    script = Path(__file__).with_name("fuzz_images.py")
    done = subprocess.run(
        [sys.executable, script, "--child", "--cases", "1000"],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    decoded, broken = map(int, done.stdout.split())
    assert decoded + broken == 1000
    assert min(decoded, broken) > 100  # neither untouched nor hopeless


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_bad_images_leak_nothing():
    rng = np.random.default_rng(0)
    bad = [data[: len(data) * k // 9] for data in seeds() for k in range(1, 9)]

    def decode_all(times):
        for _ in range(times):
            outcomes = [try_one(data, rng) for data in bad]
            assert outcomes.count("pixels") < len(bad) / 8
        gc.collect()

    decode_all(4)
    files, memory = len(os.listdir("/proc/self/fd")), resident()
    decode_all(16)  # 2,048
    assert len(os.listdir("/proc/self/fd")) == files
    # 61 x 83 x 3 bytes of each would be 31 MB.
    assert resident() - memory < 8e6


def resident() -> int:
    """Bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
