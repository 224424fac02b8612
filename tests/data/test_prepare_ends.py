"""`i2i-prior prepare` that is killed, stopped, or runs out of disk."""

from __future__ import annotations

import ast
import multiprocessing
import os
import random
import signal
import socket
import time

import pytest

from i2i_prior.data.prepare.workers import work
from i2i_prior.errors import UserError
from tests.data.fixtures_prepared import contents, examples, write_photos
from tests.forked import Forked
from tests.io.test_disk import UNSHARE, mount_refused

PHOTOS, PER_SHARD = 72, 3
SHARDS = PHOTOS // PER_SHARD


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """So large that encoding one takes milliseconds, and one is broken."""
    folder = write_photos(tmp_path_factory.mktemp("p"), PHOTOS, 240, 300)
    whole = (folder / "040.jpg").read_bytes()
    (folder / "040.jpg").write_bytes(whole[:3000])
    return folder


@pytest.fixture(scope="module")
def options(photos):
    """options(out) -> arguments of the command."""
    return lambda out: [
        "prepare",
        f"--source=folder:{photos}",
        f"--out={out}",
        "--size=200",
        "--encode=png",
        f"--examples-per-shard={PER_SHARD}",
        "--max-broken=0.05",
    ]


@pytest.fixture(scope="module")
def undisturbed(command, options, tmp_path_factory):
    """Output of one process that is not interrupted."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    ended = command(*options(out), "--workers=1")
    assert ended.code == 0, ended.err
    assert len(examples(out)) == PHOTOS - 1
    return contents(out)


def wait_for_shards(process, out, count: int) -> None:
    due = time.monotonic() + 60
    while len(list(out.glob("data-*.json"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < due
        time.sleep(0.002)


def test_killed_five_times_and_stopped_once(options, undisturbed, tmp_path):
    out = tmp_path / "out"
    arguments = [*options(out), "--workers=2"]
    rng = random.Random(0)
    for kill in [signal.SIGKILL] * 5 + [signal.SIGTERM]:
        process = Forked(*arguments)
        there = len(list(out.glob("data-*.json"))) if out.exists() else 0
        wait_for_shards(process, out, there + rng.randint(1, 2))
        time.sleep(rng.random() * 0.05)
        process.send_signal(kill)
        _, err = process.communicate(timeout=60)
        if kill == signal.SIGTERM:
            assert process.returncode == 75, err
            assert "SIGTERM: finished shards are in " in err
            assert err.splitlines()[-1].endswith("same command to go on")
            assert not list(out.glob(".*.part"))
        else:
            assert process.returncode == -signal.SIGKILL
        assert not (out / "manifest.json").exists()
    process = Forked(*arguments)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert contents(out) == undisturbed


def test_two_hosts_of_two_workers_make_the_same(options, undisturbed, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    out = tmp_path / "out"
    hosts = [
        Forked(
            *options(out),
            "--workers=2",
            f"--coordinator=127.0.0.1:{port}",
            "--processes=2",
            f"--process-id={number}",
        )
        for number in range(2)
    ]
    said = [host.communicate(timeout=120)[1] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], "\n".join(said)
    assert contents(out) == undisturbed
    assert "done: 71 examples, 1 left out" in said[0]
    assert "done" not in said[1]


def test_too_many_broken_end_all_workers(command, photos, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    whole = (photos / "000.jpg").read_bytes()
    for number in range(300):
        data = b"" if number < 120 else whole
        (folder / f"{number:03}.jpg").write_bytes(data)
    ended = command(
        "prepare",
        f"--source=folder:{folder}",
        f"--out={tmp_path / 'out'}",
        "--size=200",
        "--encode=png",
        "--examples-per-shard=150",
        "--workers=2",
    )
    assert ended.code == 1
    assert "120 of 150 records are broken, more than" in ended.err
    # The other shard had hardly begun, and is not waited for.
    names = contents(tmp_path / "out").keys()
    first = "data-00000-of-00002"
    assert names == {f"{first}.array_record", f"{first}.json", "plan.json"}
    assert not multiprocessing.active_children()


class Dies:
    """A task whose worker is killed at job 3."""

    def __call__(self, job, tick):
        tick(1)
        if job == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return job


class Fails:
    """A task that fails at every job."""

    def __call__(self, job, tick):
        raise OSError(28, "No space left on device")


def test_a_worker_that_dies_is_named():
    with pytest.raises(UserError) as caught:
        list(work(Dies(), range(8), 2, lambda pieces: None))
    assert "died (SIGKILL, as for want of memory)" in str(caught.value)
    assert "while it made shard 3" in str(caught.value)


def test_what_fails_in_a_worker_is_raised_here():
    with pytest.raises(OSError, match="No space left"):
        list(work(Fails(), range(8), 1, lambda pieces: None))


# Runs in a mount namespace of its own, on a disk of 8 MB that is filled up
# to some bytes: too few for the plan, then for a shard, at last all is free.
SCRIPT = """
import os, subprocess, sys
from pathlib import Path
from i2i_prior.cli import main

disk, options = Path(sys.argv[1]), sys.argv[2:]
mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk]
subprocess.run(mount, check=True)
filler = disk / "filler"
for free in (100, 1_000_000, None):
    filler.unlink(missing_ok=True)
    usage = os.statvfs(disk)
    if free:
        filler.write_bytes(bytes(usage.f_bavail * usage.f_frsize - free))
    print("===", file=sys.stderr)
    try:
        main(options)
    except SystemExit as ended:
        print(ended.code, flush=True)
    print(sorted(os.listdir(disk / "out")), flush=True)
"""


def test_a_full_disk(python, options, tmp_path):
    if reason := mount_refused(tmp_path):
        pytest.skip(f"a small disk cannot be mounted here: {reason}")
    script, disk = tmp_path / "script.py", tmp_path / "disk"
    script.write_text(SCRIPT)
    disk.mkdir()
    arguments = [a for a in options(disk / "out") if "encode" not in a]
    process = python(
        script, disk, *arguments, "--workers=1", prefix=tuple(UNSHARE)
    )
    out, err = process.communicate(timeout=120)
    lines = out.splitlines()
    assert lines[0::2] == ["74", "74", "0"], err
    assert lines[1] == "[]"
    # Whole shards each with its side file, and nothing half-written.
    names = ast.literal_eval(lines[3])
    assert "plan.json" in names
    stems = [name.partition(".")[0] for name in names if name != "plan.json"]
    assert all(stems.count(stem) == 2 for stem in stems), names
    assert len(ast.literal_eval(lines[5])) == SHARDS + 2
    assert "Traceback" not in err
    for text in err.split("===\n")[1:3]:
        assert text.count("error: ") == 1
        assert "no space left in " in text
        assert "run the same command again, which goes on" in text
    assert "done: " in err
