"""A disk that fills up: one sentence, and the same command resumes."""

from __future__ import annotations

import os
import subprocess

import pytest

UNSHARE = ["unshare", "--mount"] + ["--map-root-user"] * (os.getuid() != 0)

# Runs in a mount namespace of its own, on a disk of 8 MB that is filled up
# to some bytes: too few for config.json, then for a checkpoint (1.3 MB), then
# for the second one; at last all of it is free.
SCRIPT = """
import os, subprocess, sys
from pathlib import Path
from i2i_prior import train
from i2i_prior.cli import main

build, programs = train.build, []
def once(config, mesh):
    programs[:] = programs or [build(config, mesh)]
    return programs[0]
train.build = once  # the same config each time

disk, spec = Path(sys.argv[1]), sys.argv[2]
mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk]
subprocess.run(mount, check=True)
filler = disk / "filler"
for free in (100, 200_000, 2_000_000, None):
    filler.unlink(missing_ok=True)
    usage = os.statvfs(disk)
    if free:
        filler.write_bytes(bytes(usage.f_bavail * usage.f_frsize - free))
    print("===", file=sys.stderr)
    try:
        main(["train", "--config", spec, "--workdir", str(disk / "run")])
    except SystemExit as ended:
        print(ended.code, flush=True)
print(sorted(os.listdir(disk / "run" / "checkpoints")))
"""


def mount_refused(folder) -> str:
    """Why a small disk cannot be mounted here; empty where it can."""
    try:
        tried = subprocess.run(
            [*UNSHARE, "mount", "-t", "tmpfs", "tmpfs", folder],
            capture_output=True,
            text=True,
            timeout=60,
        )
    except OSError as error:
        return str(error)
    return tried.stderr.strip() if tried.returncode else ""


def test_a_full_disk(python, tiny_spec, tmp_path):
    if reason := mount_refused(tmp_path):
        pytest.skip(f"a small disk cannot be mounted here: {reason}")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    disk = tmp_path / "disk"
    disk.mkdir()
    process = python(script, disk, tiny_spec, prefix=tuple(UNSHARE))
    out, err = process.communicate(timeout=300)
    assert out.splitlines() == ["74", "74", "74", "0", "['2', '4', '6']"], err
    assert "Traceback" not in err
    *full, free = err.split("===\n")[1:]
    endings = (
        "config.json (No space left on device); free some space, or choose",
        "run the same command again: it resumes from the start",
        "run the same command again: it resumes from step 2",
    )
    for text, ending in zip(full, endings, strict=True):
        assert text.count("error: ") == 1
        assert text.splitlines()[-1].startswith("error: ")
        assert ending in text
    assert "resumed, step 2" in free
    assert "done, step 6" in free
