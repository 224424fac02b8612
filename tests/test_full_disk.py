"""A disk that fills up: one sentence, and the same command resumes."""

from __future__ import annotations

import os
import subprocess

import pytest

UNSHARE = ["unshare", "--mount"] + ["--map-root-user"] * (os.getuid() != 0)

# In a mount namespace of its own: a disk of 4 MB, of which a file takes
# most; a checkpoint of the tiny run needs about 1 MB.
SCRIPT = """
import os, subprocess, sys
from pathlib import Path
disk, spec, free = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
subprocess.run(
    ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], check=True
)
filler = disk / "filler"
usage = os.statvfs(disk)
filler.write_bytes(bytes(usage.f_bavail * usage.f_frsize - free))
from i2i_prior.cli import main

def train():
    try:
        main(["train", "--config", spec, "--workdir", str(disk / "run")])
    except SystemExit as ended:
        return ended.code or 0

print(train(), flush=True)
print("=== freed", file=sys.stderr)
filler.unlink()
print(train(), flush=True)
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


@pytest.mark.parametrize("free", [100, 20_000, 2_000_000])
def test_a_full_disk(python, tiny_spec, tmp_path, free):
    if reason := mount_refused(tmp_path):
        pytest.skip(f"a small disk cannot be mounted here: {reason}")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    disk = tmp_path / "disk"
    disk.mkdir()
    process = python(script, disk, tiny_spec, str(free), prefix=(*UNSHARE,))
    out, err = process.communicate(timeout=300)
    first, second = err.split("=== freed\n")
    print(err)
    assert out.splitlines()[:2] == ["1", "0"]
    assert "Traceback" not in err
    assert first.splitlines()[-1].startswith("error: ")
    assert first.count("error: ") == 1
    assert "done, step 6" in second
    assert out.splitlines()[2] == "['2', '4', '6']"
