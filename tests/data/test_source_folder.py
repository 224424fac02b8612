"""Folders: what lies beside images, and the list that is kept."""

from __future__ import annotations

import os
import pickle
import time

import pytest

from i2i_prior.data.record import fingerprint_of
from i2i_prior.data.sources import folder
from i2i_prior.data.sources.names import Names
from i2i_prior.data.sources.registry import open_source
from i2i_prior.errors import UserError
from tests.data.fixtures_sources import age, png, write_folder

FILES = {
    "a/1.jpg": b"1",
    "a/1.txt": "a cat \n\nein Käfer\n".encode(),
    "a/1.json": b'{"fov": 0.7}',
    "a/1.cls": b"7\n",
    "a/2.PNG": b"22",
    "b.png": b"333",
}


def listings(monkeypatch) -> list:
    """Counts how often a folder is walked."""
    walked, walk = [], folder._walk
    monkeypatch.setattr(
        folder, "_walk", lambda *a: walked.append(a[0]) or walk(*a)
    )
    return walked


def test_captions_class_and_json_beside_an_image_are_its_fields(tmp_path):
    write_folder(tmp_path, FILES)
    first, second, third = open_source(f"folder:{tmp_path}")
    assert first.name == "a/1.jpg"
    assert first.fields == {
        "captions": ("a cat", "ein Käfer"),
        "label": 7,
        "json": {"fov": 0.7},
    }
    assert second.fields == third.fields == {}


def test_sidecars_without_a_meaning_are_left_out(tmp_path):
    deep = b"[" * 100_000
    for name, data in {"a": deep, "b": b"[1]", "c": b"\xff", "d": b""}.items():
        beside = {f"{name}.json": data, f"{name}.cls": data}
        write_folder(tmp_path, {f"{name}.png": png(1), **beside})
    write_folder(tmp_path, {"d.txt": b"\xff\n \n"})
    records = list(open_source(f"folder:{tmp_path}"))
    assert [record.fields for record in records[:3]] == [{}, {}, {}]
    assert records[3].fields == {"captions": ("\ufffd",)}


def test_a_folder_is_listed_once_and_again_when_it_changed(
    tmp_path, monkeypatch, index_folder
):
    write_folder(tmp_path, FILES)
    age(tmp_path)
    walked = listings(monkeypatch)
    first = open_source(f"folder:{tmp_path}")
    again = open_source(f"folder:{tmp_path}")
    assert len(walked) == 1
    assert list(again) == list(first)
    assert again.fingerprint() == first.fingerprint()
    write_folder(tmp_path, {"a/3.jpg": b"new"})
    assert len(open_source(f"folder:{tmp_path}")) == 4
    assert len(walked) == 2
    age(tmp_path)
    assert len(open_source(f"folder:{tmp_path}")) == 4
    (kept,) = index_folder.iterdir()
    kept.write_bytes(kept.read_bytes()[:-300])
    assert len(open_source(f"folder:{tmp_path}")) == 4
    data = bytearray(kept.read_bytes())
    data[len(data) // 3] ^= 1
    kept.write_bytes(data)
    assert len(open_source(f"folder:{tmp_path}")) == 4
    kept.write_bytes(b"")
    assert len(open_source(f"folder:{tmp_path}")) == 4


def test_a_folder_that_just_changed_is_not_kept(tmp_path, index_folder):
    write_folder(tmp_path, FILES)
    open_source(f"folder:{tmp_path}")
    assert not index_folder.exists()


def test_no_cache_is_no_harm(tmp_path, monkeypatch):
    write_folder(tmp_path / "f", FILES)
    (tmp_path / "file").write_bytes(b"")
    age(tmp_path / "f")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(open_source(f"folder:{tmp_path}/f")) == 3


def test_a_file_that_vanished_is_told_when_it_is_read(tmp_path):
    write_folder(tmp_path, FILES)
    source = open_source(f"folder:{tmp_path}")
    (tmp_path / "b.png").unlink()
    with pytest.raises(FileNotFoundError):
        source[2]
    (tmp_path / "a/1.txt").unlink()
    with pytest.raises(FileNotFoundError):
        source[0]


def test_a_closed_folder_is_told_in_one_sentence(tmp_path, monkeypatch):
    write_folder(tmp_path, FILES)
    scan = os.scandir

    def closed(path):
        if str(path).rstrip("/") == f"{tmp_path}/a":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    # Not by its mode: root may read everything.
    monkeypatch.setattr(folder.os, "scandir", closed)
    with pytest.raises(UserError, match=r"^Path .*/a/ cannot be read .*\.$"):
        open_source(f"folder:{tmp_path}")


def test_links_that_lead_nowhere_are_passed_over(tmp_path):
    write_folder(tmp_path, FILES)
    for name in ("self", "self.png", "self.txt"):
        (tmp_path / name).symlink_to(name)
    (tmp_path / "below.png").symlink_to("b.png/below")
    source = open_source(f"folder:{tmp_path}")
    assert [record.name for record in source][2:] == ["b.png"]
    assert len(source.fingerprint()) == 16


@pytest.mark.parametrize("name", ["link", "link.png"])
def test_a_link_into_a_closed_place_is_one_sentence(
    tmp_path, monkeypatch, name
):
    write_folder(tmp_path, FILES)

    class Closed:
        name, path = "", ""

        def is_dir(self):
            raise PermissionError(13, "Permission denied")

    closed, scan = Closed(), os.scandir
    closed.name, closed.path = name, f"{tmp_path}/{name}"
    # Not by a mode: root may read everything.
    monkeypatch.setattr(folder.os, "scandir", lambda p: [*scan(p), closed])
    with pytest.raises(UserError, match=rf"/{name} cannot be read .*\.$"):
        open_source(f"folder:{tmp_path}")


def test_the_fingerprint_is_the_same_with_and_without_a_cache(
    tmp_path, monkeypatch, index_folder
):
    write_folder(tmp_path / "f", {f"{i}.png": b"1" * i for i in range(40)})
    age(tmp_path / "f")
    monkeypatch.setattr(folder, "_CHUNK", 7)
    before = open_source(f"folder:{tmp_path}/f")
    sizes = [len(record.data) for record in before]
    wanted = fingerprint_of("folder", before.names, sizes)
    assert before.fingerprint() == wanted
    (tmp_path / "f/20.png").write_bytes(b"longer than before" * 9)
    with_cache = open_source(f"folder:{tmp_path}/f").fingerprint()
    assert len(list(index_folder.iterdir())) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    without = open_source(f"folder:{tmp_path}/f").fingerprint()
    assert with_cache == without != wanted


def test_a_change_during_a_long_walk_is_not_hidden(
    tmp_path, monkeypatch, index_folder
):
    write_folder(tmp_path, FILES)
    walk = folder._walk

    def slow(*args):
        found, later = walk(*args), time.time() + 60
        monkeypatch.setattr(time, "time", lambda: later)
        monkeypatch.setattr(time, "time_ns", lambda: int(later * 1e9))
        return found

    monkeypatch.setattr(folder, "_walk", slow)
    open_source(f"folder:{tmp_path}")
    assert not index_folder.exists()


def test_only_old_halves_of_indices_are_swept(tmp_path, index_folder):
    write_folder(tmp_path / "f", FILES)
    age(tmp_path / "f")
    write_folder(index_folder, {"old.part": b"", "new.part": b""})
    day_and_more = time.time() - 90_000
    os.utime(index_folder / "old.part", (day_and_more, day_and_more))
    open_source(f"folder:{tmp_path}/f")
    left = {path.suffix for path in index_folder.iterdir()}
    assert left == {".part", ".npz"}
    assert not (index_folder / "old.part").exists()


def test_names_are_kept_as_they_are():
    names = ["", "a/1.png", "ü" * 80, os.fsdecode(b"\xff.png"), "z"]
    packed = Names.of(names)
    assert list(packed) == names
    assert [packed[i] for i in range(-5, 5)] == names * 2
    joined = Names.joined([packed, Names.of([]), packed])
    assert list(joined) == names * 2
    with pytest.raises(IndexError):
        packed[5]
    with pytest.raises(IndexError):
        packed[-6]


def test_many_names_are_small_to_pickle():
    packed = Names.of(f"{i // 1000:04}/{i:07}.jpg" for i in range(300_000))
    data = pickle.dumps(packed)
    assert len(data) < 8e6
    assert pickle.loads(data)[123_456] == "0123/0123456.jpg"
