"""File locks: released with their process, inherited, absent on some disks."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from i2i_prior.errors import UserError
from i2i_prior.io import locks

HOLDER = """
import subprocess, sys, time
from pathlib import Path
from i2i_prior.io import locks
file = locks.acquire(Path(sys.argv[1]))
if sys.argv[2:]:  # a child outlives this process with the lock
    command = [sys.executable, "-S", "-c", "input()"]
    subprocess.Popen(command, pass_fds=[file], stdin=0)
print("held", flush=True)
time.sleep(60)
"""


def start(path: Path, *options: str) -> subprocess.Popen:
    """A process that holds a lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_lock_ends_with_its_process(tmp_path):
    path = tmp_path / "deep" / "lock"
    assert locks.is_held(path) is False
    assert not path.exists()
    process = start(path)
    try:
        assert locks.is_held(path)
        assert locks.acquire(path) is None
        assert locks.holder(path).startswith(f"process {process.pid} on ")
        assert not locks.is_leaving(path)
        locks.announce_leaving(path)
        assert locks.is_leaving(path)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert locks.is_held(path) is False
    file = locks.acquire(path)
    assert file is not None
    assert not locks.is_leaving(path)
    os.close(file)


def test_a_lock_is_held_as_long_as_a_child_has_it(tmp_path):
    path = tmp_path / "lock"
    process = start(path, "child")
    process.kill()
    process.wait()
    assert locks.is_held(path)
    assert process.stdin is not None
    process.stdin.close()  # ends the child
    file = locks.acquire(path, timeout=20)
    assert file is not None
    os.close(file)


def test_one_command_has_a_folder(tmp_path):
    with (
        locks.exclusive(tmp_path / "out"),
        pytest.raises(UserError, match=r"another command is at .*/out: wait"),
        locks.exclusive(tmp_path / "out"),
    ):
        pass
    assert list((tmp_path / "out").iterdir()) == []


def test_without_locks_work_goes_on(tmp_path, monkeypatch):
    def flock(file, kind):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    path = tmp_path / "lock"
    files = [locks.acquire(path), locks.acquire(path)]
    assert None not in files
    assert locks.is_held(path) is None
    for file in files:
        os.close(file)
    with locks.exclusive(tmp_path), locks.exclusive(tmp_path):
        pass
