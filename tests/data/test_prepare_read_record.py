"""`i2i-prior prepare` where disks, networks and other commands interfere."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import stat

import numpy as np
import pytest

from i2i_prior.data.prepare import examples
from i2i_prior.data.prepare.examples import Dropped, Maker, Pictures, probe
from i2i_prior.data.prepare.folder import Tally
from i2i_prior.data.prepare.shards import Outcome
from i2i_prior.data.record import Record
from i2i_prior.data.sources.folder import FolderSource
from i2i_prior.errors import UserError
from i2i_prior.io import files, locks
from tests.data.fixtures_prepared import jpeg, write_photos

RECORD = Record("a", jpeg(np.zeros((6, 8, 3), np.uint8)))


@pytest.fixture
def prepare(command, tmp_path):
    """prepare() -> how it ended, of three photographs."""
    photos = write_photos(tmp_path / "photos", 3, 16, 16)
    return lambda: command(
        "prepare",
        f"--source=folder:{photos}",
        f"--out={tmp_path / 'out'}",
        "--workers=1",
    )


@dataclasses.dataclass
class Failing:
    """Raises these errors one after the other, then gives a record."""

    errors: list[OSError]

    def __len__(self):
        return 1

    def __getitem__(self, index):
        if self.errors:
            raise self.errors.pop(0)
        return RECORD


def caused(error: OSError, cause: Exception) -> OSError:
    error.__cause__ = cause
    return error


STALE = OSError(errno.ESTALE, "Stale file handle")
REMOTE = caused(OSError(5, "no answer"), TimeoutError("no answer"))


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(examples, "_PAUSES", (0, 0))


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    "error",
    [
        STALE,
        REMOTE,
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.EIO, "Input/output error"),
        PermissionError(errno.EACCES, "Permission denied"),
        caused(OSError(5, "x"), RuntimeError("pread: Input/output error")),
    ],
)
def test_what_the_system_does_drops_no_record(error):
    make = Maker(Failing([error] * 2), Pictures())
    assert make(0)["name"] == "a"
    make = Maker(Failing([error] * 3), Pictures())
    with pytest.raises(UserError, match="record 0 of the source cannot be"):
        make(0)
    with pytest.raises(UserError, match="the same command again"):
        probe(Failing([error] * 3))


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "a damaged example (it ends too early)"),
        caused(OSError(5, "x"), RuntimeError("CRC of record 3 is another")),
        caused(OSError(5, "gone"), FileNotFoundError(2, "gone")),
        OSError(errno.ELOOP, "Too many levels of symbolic links"),
        NotADirectoryError(errno.ENOTDIR, "Not a directory"),
        IsADirectoryError(errno.EISDIR, "Is a directory"),
    ],
)
def test_damage_drops_a_record_at_once(error):
    make = Maker(Failing([error]), Pictures())
    assert make(0) == Dropped("record 0", f"cannot be read ({error.strerror})")


def test_a_record_that_cannot_be_read_ends_the_command(
    prepare, tmp_path, monkeypatch, at_once
):
    def read(self, index):
        raise STALE

    monkeypatch.setattr(FolderSource, "__getitem__", read)
    ended = prepare()
    assert ended.code == 1
    assert "000.jpg of the source cannot be read (Stale file" in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not list((tmp_path / "out").glob("data-*"))


def test_two_commands_do_not_share_a_folder(prepare, tmp_path):
    with locks.exclusive(tmp_path / "out"):
        begun = tmp_path / "out" / ".data-00000.x.part"
        begun.write_text("half")
        ended = prepare()
        assert begun.read_text() == "half"
    assert ended.code == 1
    assert "another command is at " in ended.err
    # The file that a killed command leaves is no lock.
    (tmp_path / "out" / ".lock").touch()
    assert prepare().code == 0
    assert not (tmp_path / "out" / ".lock").exists()


def test_a_disk_without_locks_will_do(prepare, tmp_path, monkeypatch):
    def flock(descriptor, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert prepare().code == 0
    assert not (tmp_path / "out" / ".lock").exists()


def test_a_disk_that_syncs_no_folder_will_do(tmp_path, monkeypatch):
    sync, number = os.fsync, errno.EINVAL

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    files.write_json(tmp_path / "x.json", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    number = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        files.write_json(tmp_path / "x.json", 2)


def test_broken_ones_count_against_all_records():
    lost = tuple(Dropped(str(n), "is empty") for n in range(20))
    tally = Tally(0.01, 2000)
    tally.add(Outcome(80, 1, "", lost))
    tally.check()
    tally.add(Outcome(99, 1, "", lost[:1]))
    with pytest.raises(UserError, match=r"21 of 200 .* of 2,000 in all, the"):
        tally.check()
