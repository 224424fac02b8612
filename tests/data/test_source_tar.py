"""Tar archives: examples of several files, cuts, kept indices, mischief."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import tarfile

import pytest

from i2i_prior.data.sources import tar_index
from i2i_prior.data.sources.registry import open_source
from i2i_prior.errors import UserError
from tests.data.fixtures_sources import age, png, value_of, write_tar

PAIRS = {
    "1.cls": b"4",
    "1.photo.jpg": png(1),
    "1.labels.JPG": png(101),
    "1.txt": b"one\nuno",
    "1.mp4": b"passed over",
    "note.txt": b"of no image",
    "d/2.photo.jpg": png(2),
    "d/2.json": b'{"fov": 1}',
    "3.labels.jpg": png(103),
}


def test_neighbours_of_one_key_are_one_example(tmp_path):
    write_tar(tmp_path / "a.tar", PAIRS)
    one, two, three = open_source(f"tar:{tmp_path}/a.tar")
    assert one.name == "1.photo.jpg"
    assert one.data == png(1)
    assert one.fields == {
        "label": 4,
        "captions": ("one", "uno"),
        "images": {"labels.jpg": png(101)},
    }
    assert two.fields == {"json": {"fov": 1}}
    assert (three.name, three.fields) == ("3.labels.jpg", {})


def test_the_image_of_an_example_can_be_chosen(tmp_path):
    write_tar(tmp_path / "a.tar", PAIRS)
    spec = f"tar:{tmp_path}/a.tar"
    one, three = open_source(f"{spec}#image=labels.jpg")
    assert (value_of(one), value_of(three)) == (101, 103)
    assert one.fields["images"] == {"photo.jpg": png(1)}
    for none in ("other.jpg", "txt"):
        with pytest.raises(UserError, match=f"holds no image {none}: .*\\.$"):
            open_source(f"{spec}#image={none}")


def test_names_that_come_twice_stay_two_examples(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for value in (1, 2):
            member = tarfile.TarInfo("x.png")
            member.size = len(png(value))
            archive.addfile(member, io.BytesIO(png(value)))
    source = open_source(f"tar:{tmp_path}/a.tar")
    assert [value_of(record) for record in source] == [1, 2]


def test_far_neighbours_are_read_one_by_one(tmp_path):
    members = {"1.png": png(1), "1.bin": b"x" * 200_000, "1.txt": b"far"}
    write_tar(tmp_path / "a.tar", members)
    (record,) = open_source(f"tar:{tmp_path}/a.tar")
    assert value_of(record) == 1
    assert record.fields == {"captions": ("far",)}


def test_a_cut_archive_gives_what_is_whole_and_says_so(tmp_path):
    members = {f"{i}.png": bytes([i]) * 3000 for i in range(6)}
    write_tar(tmp_path / "whole.tar", members)
    data = (tmp_path / "whole.tar").read_bytes()
    cut = tmp_path / "cut.tar"
    step = 512 + 3072
    # within a header, an image, at the end of one, before the end mark
    for size, left in [
        (3 * step + 100, 3),
        (3 * step + 600, 3),
        (3 * step + 3512, 4),
        (6 * step, 6),
    ]:
        cut.write_bytes(data[:size])
        source = open_source(f"tar:{cut}")
        assert len(source) == left
        assert source[left - 1].data == bytes([left - 1]) * 3000
        (note,) = source.notes
        assert "cut.tar is cut or damaged" in note
        assert note.endswith(".")
        assert "\n" not in note
    both = open_source(f"tar:{tmp_path}/*.tar")
    assert len(both) == 12
    assert len(both.notes) == 1


def test_notes_on_names_that_are_no_utf8_are_kept(tmp_path, index_folder):
    odd = os.fsdecode(b"\xff.png")
    write_tar(tmp_path / "a.tar", {"1.png": png(1), odd: b"2" * 3000})
    os.truncate(tmp_path / "a.tar", 4000)
    age(tmp_path / "a.tar")
    for _ in range(2):
        (note,) = open_source(f"tar:{tmp_path}/a.tar").notes
        assert r"(\udcff.png is not whole)" in note
        assert len(list(index_folder.iterdir())) == 1


def test_damage_in_the_middle_costs_what_comes_after(tmp_path):
    write_tar(tmp_path / "a.tar", {f"{i}.png": png(i) for i in range(6)})
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[3 * 1024 : 3 * 1024 + 200] = b"?" * 200
    (tmp_path / "a.tar").write_bytes(data)
    source = open_source(f"tar:{tmp_path}/a.tar")
    assert "cut or damaged" in source.notes[0]
    assert [value_of(record) for record in source] == [0, 1, 2]


def test_an_archive_is_indexed_once_and_again_when_it_changed(
    tmp_path, monkeypatch, index_folder
):
    path = tmp_path / "a.tar"
    write_tar(path, PAIRS)
    os.truncate(path, 9 * 1024)  # no end mark: a note
    age(path)
    read, indexed = tar_index._read, []
    monkeypatch.setattr(
        tar_index, "_read", lambda *a: indexed.append(a) or read(*a)
    )

    def opened(count):
        source = open_source(f"tar:{path}")
        assert "no end mark" in source.notes[0]
        assert len(indexed) == count
        return source

    first, again = opened(1), opened(1)
    assert list(again) == list(first)
    assert again.notes == first.notes
    assert again.fingerprint() == first.fingerprint()
    (kept,) = index_folder.iterdir()
    for damaged in (b"", b"no index", kept.read_bytes()[:-100]):
        kept.write_bytes(damaged)
        count = len(indexed) + 1
        assert list(opened(count)) == list(first)
        assert list(opened(count)) == list(first)
    write_tar(path, {"9.png": png(9)})
    age(path)
    (record,) = open_source(f"tar:{path}")
    assert value_of(record) == 9


def test_an_archive_that_shrank_is_told_when_it_is_read(tmp_path):
    write_tar(tmp_path / "a.tar", {"1.png": b"1" * 5000, "2.png": b"2" * 5000})
    source = open_source(f"tar:{tmp_path}/a.tar")
    os.truncate(tmp_path / "a.tar", 8000)
    assert source[0].data == b"1" * 5000
    with pytest.raises(OSError, match="no longer as it was indexed"):
        source[1]


def test_empty_sparse_and_linked_members_do_no_harm(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind in [
            ("link.png", tarfile.SYMTYPE),
            ("hard.png", tarfile.LNKTYPE),
            ("fifo.png", tarfile.FIFOTYPE),
            ("device.png", tarfile.CHRTYPE),
            ("sparse.png", tarfile.GNUTYPE_SPARSE),
        ]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        for name, data in [("zero.png", b""), ("1.png", png(1))]:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    zero, one = open_source(f"tar:{path}")
    assert (zero.name, zero.data) == ("zero.png", b"")
    assert value_of(one) == 1


@pytest.mark.parametrize("size", [8**11 - 1, 2**40, 2**63, 2**87])
def test_huge_sizes_in_headers_are_not_believed(tmp_path, size):
    for kind in (tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
        big = tarfile.TarInfo("big.png")
        big.size, big.type = size, kind
        first = tarfile.TarInfo("1.png")
        first.size = len(png(1))
        header = first.tobuf(tarfile.GNU_FORMAT)
        (tmp_path / "a.tar").write_bytes(
            header
            + png(1).ljust(512, b"\0")
            + big.tobuf(tarfile.GNU_FORMAT)
            + bytes(4096)
        )
        source = open_source(f"tar:{tmp_path}/a.tar")
        assert "cut or damaged" in source.notes[0]
        assert [value_of(record) for record in source] == [1]


def test_headers_within_headers_end(tmp_path):
    name = tarfile.TarInfo("x")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 4
    block = name.tobuf(tarfile.GNU_FORMAT) + b"abc\0".ljust(512, b"\0")
    (tmp_path / "a.tar").write_bytes(block * 5000)
    with pytest.raises(UserError, match="not a complete, uncompressed tar"):
        open_source(f"tar:{tmp_path}/a.tar")


def test_pickling_keeps_fields_and_notes(tmp_path):
    write_tar(tmp_path / "a.tar", PAIRS)
    source = open_source(f"tar:{tmp_path}/a.tar")
    source[0]
    again = pickle.loads(pickle.dumps(source))
    assert list(again) == list(source)
    assert again.notes == []


def link(archive, name, target, kind=tarfile.LNKTYPE):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    archive.addfile(member)


def test_hard_links_are_what_they_lead_to(tmp_path):
    path = tmp_path / "a.tar"
    members = {"./1.png": png(1), "x.bin": b"x" * 99_000, "1.txt": b"one"}
    write_tar(path, members)
    with tarfile.open(path, "a") as archive:
        link(archive, "2.png", "./1.png")
        link(archive, "2.txt", "1.txt")
        for name, data in (("3.txt", b"three"), ("3.cls", b"3")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        link(archive, "3.png", "2.png")
        link(archive, "3.seg.png", "1.png")
        link(archive, "lost.png", "x.bin")
        link(archive, "of no interest", "nothing")
    source = open_source(f"tar:{path}")
    assert [record.name for record in source] == ["1.png", "2.png", "3.png"]
    assert [value_of(record) for record in source] == [1, 1, 1]
    assert source[1].fields == {"captions": ("one",)}
    assert source[2].fields == {
        "captions": ("three",),
        "label": 3,
        "images": {"seg.png": png(1)},
    }
    (note,) = source.notes
    assert "has 1 hard links" in note


def test_what_follows_the_end_mark_is_told(tmp_path):
    write_tar(tmp_path / "a.tar", {"1.png": png(1)})
    data = (tmp_path / "a.tar").read_bytes()
    assert open_source(f"tar:{tmp_path}/a.tar").notes == []
    far = bytes(3 << 20)
    for number, after in enumerate([data, far + b"x", b"x" + far, far]):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(data + after)
        source = open_source(f"tar:{path}")
        assert [value_of(record) for record in source] == [1]
        said = [f"{number}.tar goes on after" in note for note in source.notes]
        assert said == ([] if after == far else [True])


def test_open_archives_end_with_the_interpreter_in_silence(tmp_path):
    write_tar(tmp_path / "a.tar", {"1.png": png(1)})
    code = (
        "import codecs\n"
        "from i2i_prior.data.sources.registry import open_source\n"
        f"codecs.kept = open_source('tar:{tmp_path}/a.tar')\n"
        "codecs.kept[0]"
    )
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, check=True, text=True)
    assert ended.stderr == ""


def test_a_folder_of_archives_is_told_how_to_name_them(tmp_path):
    for scheme in ("tar", "parquet"):
        whole = rf"is a folder: .*'{scheme}:{tmp_path}/\*\.{scheme}'\.$"
        with pytest.raises(UserError, match=whole):
            open_source(f"{scheme}:{tmp_path}")
