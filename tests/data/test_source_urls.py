"""Sources on other file systems, with the two that need no network."""

from __future__ import annotations

import io
import pickle

import fsspec
import pytest
from fsspec.registry import known_implementations

from i2i_prior.data.sources import tar_index
from i2i_prior.data.sources.registry import open_source
from i2i_prior.errors import UserError
from tests.data.fixtures_sources import png, value_of, write_folder, write_tar

MEMBERS = {
    "a/1.jpg": png(1),
    "a/1.txt": b"one",
    "a/2.png": png(2),
    "b.png": png(3),
}


@pytest.fixture
def memory(tmp_path):
    """memory:// with a folder /f, the same as /t.tar, and /t.parquet."""
    system = fsspec.filesystem("memory")
    hidden = {".hidden/3.png": png(9), "a/.4.png": png(9), "x.bin": b""}
    for name, data in {**MEMBERS, **hidden}.items():
        system.pipe(f"/f/{name}", data)
    write_tar(tmp_path / "t.tar", MEMBERS)
    system.pipe("/t.tar", (tmp_path / "t.tar").read_bytes())
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_a_folder_by_url_is_that_folder(memory, tmp_path):
    write_folder(tmp_path / "f", MEMBERS)
    local = open_source(f"folder:{tmp_path}/f")
    for url in ("memory://f", "memory://f/", f"file://{tmp_path}/f"):
        source = open_source(f"folder:{url}")
        assert list(source) == list(local)
        assert source.fingerprint() == local.fingerprint()
        again = pickle.loads(pickle.dumps(source))
        assert again[0].fields == {"captions": ("one",)}


def test_an_archive_by_url_is_read_in_ranges(memory, tmp_path, monkeypatch):
    local = open_source(f"tar:{tmp_path}/t.tar")
    for url in ("memory://t.tar", "memory://*.tar", f"file://{tmp_path}/t.tar"):
        source = open_source(f"tar:{url}")
        assert list(source) == list(local)
        assert source.fingerprint() == local.fingerprint()
    source = open_source("tar:memory://t.tar")
    asked, whole = [], type(memory).cat_file

    def cat_file(self, path, start=None, end=None, **more):
        asked.append((start, end))
        return whole(self, path, start=start, end=end, **more)

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    assert value_of(pickle.loads(pickle.dumps(source))[1]) == 2
    ((start, end),) = asked
    assert end - start == len(png(2))


def test_its_index_is_kept_until_it_changes(memory, monkeypatch, index_folder):
    open_source("tar:memory://t.tar")
    assert len(list(index_folder.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(tar_index, "_read", None)
        assert len(open_source("tar:memory://t.tar")) == 3
    data = memory.cat_file("/t.tar").replace(b"b.png", b"c.png")
    memory.pipe("/t.tar", data)  # its sum is wrong, its size the same
    source = open_source("tar:memory://t.tar")
    assert len(source) == 2
    assert "cut or damaged" in source.notes[0]


@pytest.mark.parametrize(
    ("mark", "kept"),
    [
        ({}, False),
        ({"ETag": None}, False),
        ({"ETag": "1"}, True),
        ({"blob_id": "1"}, True),
        ({"modify": "20240101120000"}, True),
        ({"modificationTime": 17}, True),
    ],
)
def test_an_index_is_kept_only_where_a_change_would_show(
    memory, monkeypatch, index_folder, mark, kept
):
    size = len(memory.cat_file("/t.tar"))
    said = {"name": "/t.tar", "size": size, "type": "file", **mark}
    monkeypatch.setattr(type(memory), "info", lambda *_, **__: said)
    assert len(open_source("tar:memory://t.tar")) == 3
    assert index_folder.exists() == kept
    data = memory.cat_file("/t.tar").replace(b"b.png", b"c.png")
    memory.pipe("/t.tar", data)
    if kept:
        said[next(iter(mark))] = "2"
    assert open_source("tar:memory://t.tar").notes != []


def test_parquet_by_url(memory):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.table({"image": [png(1), png(2)]}), out)
    memory.pipe("/t.parquet", out.getvalue())
    source = open_source("parquet:memory://t.parquet")
    again = pickle.loads(pickle.dumps(source))
    assert [value_of(record) for record in again] == [1, 2]


def test_what_vanishes_is_told_when_it_is_read(memory):
    folder = open_source("folder:memory://f")
    archive = open_source("tar:memory://t.tar")
    memory.rm("/f/b.png")
    memory.rm("/t.tar")
    for source in (folder, archive):
        with pytest.raises(OSError, match=r"t\.tar|b\.png"):
            source[2]


@pytest.mark.parametrize("scheme", ["folder", "tar", "parquet"])
def test_what_cannot_be_reached_is_one_sentence(memory, scheme, monkeypatch):
    missing = {"class": "no_such_package.Files", "err": "Install nosuch"}
    monkeypatch.setitem(known_implementations, "nosuch", missing)
    for place, what in [
        ("memory://nothing", "does not exist|holds no image"),
        ("nosuch://bucket/x", "Install nosuch"),
        ("neverheard://bucket/x", "Protocol not known"),
    ]:
        with pytest.raises(UserError, match=rf"^[^\n]*({what})[^\n]*\.$"):
            open_source(f"{scheme}:{place}")
